"""What is not yours looks exactly like what does not exist: on every way to a run or a project,
live and replayed, to another member, and to its owner who has left the project."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from protocol.ids import RunId, UserId
from server.ports import RunRecord
from server.stores.sqlite import SqliteStore
from tests.server.harness import House, Socket, plain_http
from tests.server.people import Person, admit, shared_house, socket_of

NOBODY = "00000000-0000-4000-8000-000000000000"


class Visitor(NamedTuple):
    """Somebody with a client and a socket."""

    http: httpx.AsyncClient
    wire: Socket


Way = Callable[[Visitor, str], Awaitable[object]]
"""Asks for a run (or a project, or a plan) by its id; what was answered, without that id."""


def get(path: str) -> Way:
    async def ask(visitor: Visitor, id: str) -> object:
        async with visitor.http.stream("GET", path.format(id)) as answer:
            # A live stream of events has no end.
            body = await answer.aread() if answer.is_error else b""
        return (answer.status_code, body)

    return ask


def post(path: str, **body: Any) -> Way:
    async def ask(visitor: Visitor, id: str) -> object:
        given = {name: id if value == "ID" else value for name, value in body.items()}
        answer = await visitor.http.post(path.format(id), json=given)
        return (answer.status_code, answer.content if answer.is_error else b"")

    return ask


def say(type: str, **fields: Any) -> Way:
    async def ask(visitor: Visitor, id: str) -> object:
        given = {name: id if value == "ID" else value for name, value in fields.items()}
        answer = await visitor.wire.ask(type=type, id=f"{type} {id}", **given)
        kind = answer.pop("type")
        return (kind, None if kind == "flow_run_ack" else sorted({**answer, "id": ""}.items()))

    return ask


LAUNCH = {"flow_name": "code-review", "band": "small", "input": {"question": "q"}}
COMMAND = {"command": "/code-review small src"}
READ: dict[str, Way] = {
    "get": get("/api/runs/{}"),
    "events": get("/api/runs/{}/events"),
    "frames": get("/api/runs/{}/frames"),
    "recording": get("/api/runs/{}/recording?live=1"),
    "list before": get("/api/runs?before={}"),
    "subscribe": say("subscribe", run_id="ID"),
}
OF_ENDED: dict[str, Way] = {
    "report.md": get("/api/runs/{}/report.md"),
    "report.json": get("/api/runs/{}/report.json"),
    "rerun": post("/api/runs/{}/rerun", key="a"),
    "rerun by socket": say("rerun", run_id="ID", key="b"),
}
OF_LIVE: dict[str, Way] = {
    "finish": post("/api/runs/{}/finish"),
    "finish by socket": say("finish", run_id="ID"),
    "cancel": post("/api/runs/{}/cancel"),
    "cancel by socket": say("cancel", run_id="ID"),
}
OF_PROJECT: dict[str, Way] = {
    "list": get("/api/runs?project_id={}"),
    "launch": post("/api/runs", project_id="ID", **LAUNCH),
    "launch by socket": say("launch", project_id="ID", key="c", **COMMAND),
    "plan": post("/api/plans", project_id="ID", **COMMAND),
    "plan by socket": say("plan", project_id="ID", **COMMAND),
}
OF_PLAN: dict[str, Way] = {
    "launch by socket": say("launch", plan_id="ID", key="d"),
}
ALLOWED = {200, 201, "flow_run_ack"}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with shared_house(tmp_path) as opened:
        yield opened


@pytest.fixture
async def ann(home: House, tmp_path: Path) -> Person:
    return await admit(home, "ann", tmp_path / "project")


@pytest.fixture
async def ben(home: House, tmp_path: Path) -> Person:
    """A member of the same project."""
    return await admit(home, "ben", tmp_path / "project")


class Visiting:
    """A client and a socket of somebody."""

    def __init__(self, home: House, person: Person) -> None:
        self._http = plain_http(base_url=home.url, headers=person.bearer)
        self._socket = socket_of(home, person)

    async def __aenter__(self) -> Visitor:
        return Visitor(await self._http.__aenter__(), await self._socket.__aenter__())

    async def __aexit__(self, *error: object) -> None:
        await self._socket.__aexit__(*error)
        await self._http.__aexit__(None, None, None)


async def launched(home: House, person: Person) -> str:
    body = home.body()
    answer = await home.http.post("/api/runs", json=body, headers=person.bearer)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["run_id"])


async def refused_alike(visitor: Visitor, ways: dict[str, Way], id: str) -> None:
    """Each way answers as for an id that nothing has, and not as its owner is answered."""
    for name, way in ways.items():
        mine, none = await way(visitor, id), await way(visitor, NOBODY)
        assert mine == none, name
        if name != "list":
            assert none[0] not in ALLOWED, name  # type: ignore[index]


async def let_through(visitor: Visitor, ways: dict[str, Way], id: str) -> None:
    """The control: whoever may is answered."""
    for name, way in ways.items():
        answer = await way(visitor, id)
        assert answer[0] in {*ALLOWED, 409}, (name, answer)  # type: ignore[index]


async def leave(home: House, person: Person, project: Path) -> None:
    body = {"remove": [str(project)]}
    answer = await home.http.post(f"/api/users/{person.name}/projects", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["projects"] == []


@pytest.mark.parametrize("live", [True, False])
async def test_a_run_of_another(home: House, ann: Person, ben: Person, *, live: bool) -> None:
    if live:
        home.agent.hold()
    run_id = await launched(home, ann)
    ways = READ | (OF_LIVE if live else OF_ENDED)
    if not live:
        await ended(home, ann, run_id)
    for other in (ben, Person("local", home.http.headers["authorization"].split()[1], "")):
        async with Visiting(home, other) as visitor:
            await refused_alike(visitor, ways, run_id)
            assert await run_ids(visitor) == []
    async with Visiting(home, ann) as visitor:
        assert await run_ids(visitor) == [run_id]
        await let_through(visitor, ways, run_id)


async def ended(home: House, person: Person, run_id: str) -> None:
    async with socket_of(home, person) as wire:
        await wire.send(type="subscribe", id="s", run_id=run_id)
        assert [frame async for frame in wire.frames_of(run_id)]


async def run_ids(visitor: Visitor) -> list[str]:
    return [run["id"] for run in (await visitor.http.get("/api/runs")).json()["runs"]]


async def test_ones_own_run_of_a_project_that_one_has_left(
    home: House, ann: Person, tmp_path: Path
) -> None:
    run_id = await launched(home, ann)
    await ended(home, ann, run_id)
    await leave(home, ann, tmp_path / "project")
    async with Visiting(home, ann) as visitor:
        await refused_alike(visitor, READ | OF_ENDED, run_id)
        assert await run_ids(visitor) == []
    await home.http.post("/api/users/ann/projects", json={"add": [str(tmp_path / "project")]})
    async with Visiting(home, ann) as visitor:
        await let_through(visitor, READ | OF_ENDED, run_id)


async def test_a_project_and_a_plan_of_others(home: House, ann: Person) -> None:
    ben = await admit(home, "ben")
    async with Visiting(home, ann) as visitor:
        body = {"project_id": home.project_id, **COMMAND}
        plan = (await visitor.http.post("/api/plans", json=body)).json()["plan"]["plan_id"]
        await let_through(visitor, OF_PLAN, plan)
        await let_through(visitor, OF_PROJECT, home.project_id)
        listed = (await visitor.http.get("/api/projects")).json()["projects"]
        assert [project["id"] for project in listed] == [home.project_id]
    async with Visiting(home, ben) as visitor:
        await refused_alike(visitor, OF_PLAN, plan)
        await refused_alike(visitor, OF_PROJECT, home.project_id)
        assert (await visitor.http.get("/api/projects")).json() == {"projects": []}


async def test_a_key_of_earlier_leads_nowhere_after_leaving(
    home: House, ann: Person, tmp_path: Path
) -> None:
    headers = {**ann.bearer, "Idempotency-Key": "k"}
    first = await home.http.post("/api/runs", json=home.body(), headers=headers)
    again = await home.http.post("/api/runs", json=home.body(), headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    await leave(home, ann, tmp_path / "project")
    late = await home.http.post("/api/runs", json=home.body(), headers=headers)
    assert (late.status_code, late.json()["message"]) == (404, "project not found")


async def test_who_may_add_projects(home: House, ann: Person, tmp_path: Path) -> None:
    """A user learns nothing of the disk: a path that is there and one that is not are one."""
    (tmp_path / "other").mkdir()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    made = await home.http.post("/api/projects", json={"path": str(foreign)})
    assert made.status_code == 200
    paths = [str(path) for path in (foreign, tmp_path / "other", tmp_path / "none", "/etc")]
    answers = [
        await home.http.post("/api/projects", json={"path": path}, headers=ann.bearer)
        for path in paths
    ]
    assert {answer.status_code for answer in answers} == {403}
    told = [answer.text.replace(path, "PATH") for answer, path in zip(answers, paths, strict=True)]
    assert len(set(told)) == 1, "a project of others, a folder and nothing at all are one"
    refusal = answers[0].json()
    assert refusal["message"] == f"you are no member of {foreign}"
    assert refusal["hint"] == f"yours: {tmp_path / 'project'}; the operator lets you into others"
    own = {"path": str(tmp_path / "project")}
    mine = await home.http.post("/api/projects", json=own, headers=ann.bearer)
    assert (mine.status_code, mine.json()["id"]) == (200, home.project_id)
    made = await home.http.post("/api/projects", json={"path": str(tmp_path / "other")})
    assert made.status_code == 200, "the operator may"


async def test_without_the_check_everybody_sees_everything(
    home: House, ann: Person, ben: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: one check is all that stands on every way to a run."""
    run_id = await launched(home, ann)
    await ended(home, ann, run_id)

    async def anybody(self: SqliteStore, user: UserId, run_id: RunId) -> RunRecord | None:
        return await self.get(run_id)

    async with Visiting(home, ben) as visitor:
        await refused_alike(visitor, READ | OF_ENDED, run_id)
        monkeypatch.setattr(SqliteStore, "visible", anybody)
        await let_through(visitor, READ | OF_ENDED, run_id)
