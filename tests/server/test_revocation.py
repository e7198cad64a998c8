"""A revocation is felt at once: sockets, event streams, downloads, tickets and sessions end with
what they came from; nothing of anybody else does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from protocol.ids import RunId, UserId
from protocol.users import ProjectChange
from server.ports import Launched, NewRun, RunRecord
from server.stores.sqlite import SqliteStore
from server.users.visits import EXPIRY_SECONDS, Visits
from server.world import SystemClock
from tests.server.harness import WAIT_SECONDS, House, Socket
from tests.server.people import Person, admit, closed_with, shared_house, socket_of
from tests.server.readers import Reader


class MovedClock(SystemClock):
    """The test moves it, and says when the watch over what expires looks again."""

    def __init__(self) -> None:
        self.days = timedelta()
        self.look = asyncio.Event()

    def now(self) -> datetime:
        return super().now() + self.days

    async def sleep(self, seconds: float) -> None:
        if seconds == EXPIRY_SECONDS:
            await self.look.wait()
            self.look.clear()
        else:
            await super().sleep(seconds)


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def home(tmp_path: Path, clock: MovedClock) -> AsyncIterator[House]:
    async with shared_house(tmp_path, clock=clock) as opened:
        yield opened


@pytest.fixture
async def ann(home: House, tmp_path: Path) -> Person:
    return await admit(home, "ann", tmp_path / "project", days=1)


@pytest.fixture
async def ben(home: House, tmp_path: Path) -> Person:
    return await admit(home, "ben", tmp_path / "project")


async def revoke_user(home: House, ann: Person) -> None:
    assert (await home.http.delete("/api/users/ann")).status_code == 200


async def revoke_token(home: House, ann: Person) -> None:
    answer = await home.http.delete(f"/api/users/ann/tokens/{ann.token_id}")
    assert answer.status_code == 200


async def leave_project(home: House, ann: Person) -> None:
    body = {"remove": [home.project_id]}
    assert (await home.http.post("/api/users/ann/projects", json=body)).status_code == 200


async def expire(home: House, ann: Person) -> None:
    clock = home.podium.sign_in._clock
    assert isinstance(clock, MovedClock)
    clock.days = timedelta(days=1)
    clock.look.set()


End = Callable[[House, Person], Awaitable[None]]
ENDS = [
    pytest.param(revoke_user, 4401, id="the user is revoked"),
    pytest.param(revoke_token, 4401, id="the token is revoked"),
    pytest.param(leave_project, 4403, id="a project is left"),
    pytest.param(expire, 4401, id="the token expires"),
]


async def launched(home: House, person: Person) -> str:
    answer = await home.http.post("/api/runs", json=home.body(), headers=person.bearer)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["run_id"])


@asynccontextmanager
async def events(home: House, person: Person, run_id: str) -> AsyncIterator[Reader]:
    path = f"/api/runs/{run_id}/events"
    async with home.http.stream("GET", path, headers=person.bearer) as response:
        yield Reader(response)


async def still_answers(wire: Socket) -> bool:
    return bool((await wire.ask(type="ping", id="still"))["type"] == "flow_run_ack")


@pytest.mark.parametrize(("end", "code"), ENDS)
async def test_sockets_and_streams_end(
    home: House, ann: Person, ben: Person, end: End, code: int
) -> None:
    home.agent.hold()
    run_id, other = await launched(home, ann), await launched(home, ben)
    async with (
        socket_of(home, ann) as hers,
        socket_of(home, ben) as his,
        events(home, ann, run_id) as stream,
        events(home, ben, other) as his_stream,
    ):
        await hers.ask(type="subscribe", id="s", run_id=run_id)
        await stream.until("flow_run_caught_up")
        await end(home, ann)
        assert await closed_with(hers) == code
        told = [event.frame["type"] for event in await stream.rest() if event.data]
        assert not {"flow_run_finished", "flow_run_draining"} & set(told)
        assert await still_answers(his)
        home.agent.release()
        assert (await his_stream.until("flow_run_finished")).frame["status"] == "completed"


async def test_everybody_leaves_at_a_time_of_their_own(
    home: House, ann: Person, clock: MovedClock, tmp_path: Path
) -> None:
    """Whoever came later and expires sooner does not wait for the others; nor they for them."""
    cat = await admit(home, "cat", tmp_path / "project", days=3)
    async with socket_of(home, cat) as third, socket_of(home, ann) as first:
        bob = await admit(home, "bob", tmp_path / "project", days=2)
        async with socket_of(home, bob) as second:
            waiting = [first, second, third]
            for day in (1, 2, 3):
                clock.days = timedelta(days=day)
                clock.look.set()
                assert await closed_with(waiting.pop(0)) == 4401
                for wire in waiting:
                    assert await still_answers(wire)


async def test_without_the_watch_they_go_on(
    home: House, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: nothing else notices."""
    monkeypatch.setattr(Visits, "_end", lambda self, key, code: None)
    async with socket_of(home, ann) as wire:
        await revoke_user(home, ann)
        assert await still_answers(wire)


async def test_the_one_token_of_several(home: House, ann: Person) -> None:
    answer = (await home.http.post("/api/users/ann/tokens", json={"label": "laptop"})).json()
    laptop = Person("ann", answer["token"], answer["token_id"])
    async with socket_of(home, ann) as first, socket_of(home, laptop) as second:
        await revoke_token(home, laptop)
        assert await closed_with(second) == 4401
        assert await still_answers(first)


async def test_a_project_that_came_later_is_missed_as_well(
    home: House, ann: Person, tmp_path: Path
) -> None:
    (tmp_path / "later").mkdir()
    change = {"add": [str(tmp_path / "later")]}
    async with socket_of(home, ann) as wire:
        assert (await home.http.post("/api/users/ann/projects", json=change)).status_code == 200
        assert await still_answers(wire), "who gains something loses nothing"
        change = {"remove": [str(tmp_path / "later")]}
        assert (await home.http.post("/api/users/ann/projects", json=change)).status_code == 200
        assert await closed_with(wire) == 4403


@pytest.mark.parametrize("end", [revoke_user, leave_project])
async def test_runs_that_nobody_sees_any_more_are_stopped(
    home: House, ann: Person, ben: Person, end: End
) -> None:
    home.agent.hold()
    run_id, other = await launched(home, ann), await launched(home, ben)
    await home.agent.started(4)
    async with socket_of(home, ben) as wire:
        await wire.send(type="subscribe", id="s", run_id=other)
        await end(home, ann)
        home.agent.release()
        assert (await wire.until(type="flow_run_finished"))["status"] == "completed"
    record = await home.podium.sign_in.accounts._ground.store.get(run_id)  # type: ignore[arg-type]
    assert record is not None
    assert record.run.status.value in ("cancelling", "cancelled")


async def test_a_download_under_way_is_cut(
    home: House, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await launched(home, ann)
    async with socket_of(home, ann) as wire:
        await wire.send(type="subscribe", id="s", run_id=run_id)
        assert [frame async for frame in wire.frames_of(run_id)]
    store = home.podium.sign_in.accounts._ground.store
    reading, go_on = asyncio.Event(), asyncio.Event()
    read = store.page

    async def slow(*args: object, **kwargs: object) -> object:
        reading.set()
        await go_on.wait()
        return await read(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "page", slow)
    path = f"/api/runs/{run_id}/recording"
    async with home.http.stream("GET", path, headers=ann.bearer) as answer:
        await asyncio.wait_for(reading.wait(), WAIT_SECONDS)
        await revoke_user(home, ann)
        with pytest.raises(httpx.TransportError):
            await answer.aread()
    go_on.set()


# --- tickets and sessions -----------------------------------------------------------------------


async def ticket_of(home: House, person: Person, **body: str) -> str:
    answer = await home.http.post("/api/ws-ticket", json=body, headers=person.bearer)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["ticket"])


async def greeted(home: House, wire: Socket, ticket: str) -> str:
    answer = await wire.ask(type="hello", id="h", ticket=ticket)
    return str(answer.get("code") or (await wire.receive())["user_id"])


@pytest.mark.parametrize("end", [revoke_user, revoke_token, expire])
async def test_a_ticket_dies_with_what_it_came_from(
    home: House, ann: Person, end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, late, forgotten = [await ticket_of(home, ann) for _ in range(3)]
    async with home.socket(Origin=home.url) as wire:
        assert await greeted(home, wire, good) == "ann"
        await end(home, ann)
        assert await closed_with(wire) == 4401, "and so does the socket that one has opened"
    async with home.socket(Origin=home.url) as wire:
        assert await greeted(home, wire, late) == "unauthenticated"
        monkeypatch.setattr(home.podium.channel._tickets, "_stands", lambda guest: True)
        monkeypatch.setattr(Visits, "_end", lambda self, key, code: None)
        assert await greeted(home, wire, forgotten) == "ann", "the control"


class Browser(httpx.AsyncClient):
    """Signs in by the cookie, with its Origin."""

    def __init__(self, home: House) -> None:
        super().__init__(base_url=home.url, headers={"Origin": home.url}, trust_env=False)

    @property
    def headers_of_socket(self) -> dict[str, str]:
        cookie = self.cookies["podium_session"]
        return {"Cookie": f"podium_session={cookie}", "Origin": self.headers["origin"]}


async def test_a_session_ends_with_its_token(home: House, ann: Person) -> None:
    async with Browser(home) as browser:
        await browser.post("/api/session", json={"token": ann.token})
        seen = (await browser.get("/api/session")).json()
        assert (seen["user_id"], seen["kind"], seen["way"]) == ("ann", "user", "cookie")
        tomorrow = datetime.now().astimezone() + timedelta(days=1, minutes=1)
        assert datetime.fromisoformat(seen["expires_at"]) < tomorrow, "never after the token"
        async with home.socket(**browser.headers_of_socket) as wire:
            assert await still_answers(wire)
            await revoke_token(home, ann)
            assert await closed_with(wire) == 4401
        assert (await browser.get("/api/session")).status_code == 401


async def test_signing_out_ends_the_session_wherever_its_cookie_is(
    home: House, ann: Person
) -> None:
    async with Browser(home) as browser, Browser(home) as other, Browser(home) as thief:
        for one in (browser, other):
            assert (await one.post("/api/session", json={"token": ann.token})).status_code == 200
        thief.cookies = httpx.Cookies(browser.cookies)
        assert (await thief.get("/api/runs")).status_code == 200
        stays = home.socket(**other.headers_of_socket)
        async with home.socket(**thief.headers_of_socket) as wire, stays as second:
            no_origin = await home.http.delete(
                "/api/session",
                headers={"Cookie": browser.headers_of_socket["Cookie"]},
            )
            assert no_origin.status_code == 403, "another site's page cannot sign anybody out"
            assert (await browser.delete("/api/session")).status_code == 204
            assert await closed_with(wire) == 4401
            assert await still_answers(second)
        assert "podium_session" not in browser.cookies
        assert (await thief.get("/api/runs")).status_code == 401
        assert (await browser.delete("/api/session")).status_code == 204, "again is no fault"
        assert (await other.get("/api/runs")).status_code == 200


async def test_an_ended_session_stays_so_after_a_restart(tmp_path: Path) -> None:
    async with shared_house(tmp_path) as home, Browser(home) as browser:
        for _ in range(2):
            ann = await home.http.post("/api/session", json={"token": _token(home)})
            assert ann.status_code == 200
        await browser.post("/api/session", json={"token": _token(home)})
        cookie = browser.headers_of_socket["Cookie"]
        kept = home.http.cookies["podium_session"]
        await browser.delete("/api/session")
    async with shared_house(tmp_path) as home, Browser(home) as browser:
        ended = await browser.get("/api/runs", headers={"Cookie": cookie})
        goes_on = await browser.get("/api/runs", headers={"Cookie": f"podium_session={kept}"})
    assert (ended.status_code, goes_on.status_code) == (401, 200)


def _token(home: House) -> str:
    return str(home.http.headers["authorization"]).removeprefix("Bearer ")


# --- service accounts ---------------------------------------------------------------------------


async def test_a_service_speaks_for_users_by_tickets_alone(home: House, ann: Person) -> None:
    chat = await admit(home, "chat", service=True)
    await admit(home, "gone")
    await home.http.delete("/api/users/gone")
    async with home.socket(Origin=home.url) as wire:
        assert await greeted(home, wire, await ticket_of(home, chat, on_behalf_of="ann")) == "ann"
        listed = await home.http.get("/api/runs", headers=chat.bearer)
        assert listed.status_code == 403
        assert "on_behalf_of" in listed.json()["hint"]
        refused = []
        for name in ("local", "chat", "nobody", "gone"):
            body = {"on_behalf_of": name}
            answer = await home.http.post("/api/ws-ticket", json=body, headers=chat.bearer)
            refused.append((answer.status_code, answer.content))
        assert {status for status, _ in refused} == {404}
        assert len(set(refused)) == 1, "who there is it does not learn"
        await home.http.delete("/api/users/chat")
        assert await closed_with(wire) == 4401, "what it has opened ends with it"


async def test_nobody_else_speaks_for_others(home: House, ann: Person, ben: Person) -> None:
    for headers in (ben.bearer, dict(home.http.headers)):
        body = {"on_behalf_of": "ann"}
        answer = await home.http.post("/api/ws-ticket", json=body, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["field"] == "on_behalf_of"


async def test_a_service_opens_neither_a_session_nor_a_socket(home: House) -> None:
    chat = await admit(home, "chat", service=True)
    answer = await home.http.post("/api/session", json={"token": chat.token})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


# --- between the check and the beginning --------------------------------------------------------


@pytest.fixture
def withdraw_once(home: House, ann: Person) -> Callable[[], Awaitable[None]]:
    """Takes the project from ann, the first time that it is called."""
    accounts = home.podium.sign_in.accounts
    done: list[bool] = []

    async def withdraw() -> None:
        if not done:
            done.append(True)
            await accounts.change_projects("ann", ProjectChange(remove=[home.project_id]))

    return withdraw


@pytest.mark.parametrize("way", ["events", "recording"])
async def test_nobody_slips_through_while_it_is_withdrawn(
    home: House,
    ann: Person,
    way: str,
    withdraw_once: Callable[[], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check has found the run; before the stream is known to be open, the project is gone."""
    run_id = await launched(home, ann)
    async with socket_of(home, ann) as wire:
        await wire.send(type="subscribe", id="s", run_id=run_id)
        assert [frame async for frame in wire.frames_of(run_id)]
    visible = SqliteStore.visible

    async def then_withdrawn(self: SqliteStore, user: UserId, id: RunId) -> RunRecord | None:
        found = await visible(self, user, id)
        if user == "ann":
            await withdraw_once()
        return found

    monkeypatch.setattr(SqliteStore, "visible", then_withdrawn)
    path = f"/api/runs/{run_id}/{way}"
    if way == "events":
        assert (await home.http.get(path, headers=ann.bearer)).status_code == 404
    else:
        with pytest.raises(httpx.TransportError):
            await home.http.get(path, headers=ann.bearer)


async def test_no_launch_slips_through(
    home: House,
    ann: Person,
    withdraw_once: Callable[[], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launch = SqliteStore.launch

    async def after_withdrawing(self: SqliteStore, new: NewRun) -> Launched:
        await withdraw_once()
        return await launch(self, new)

    monkeypatch.setattr(SqliteStore, "launch", after_withdrawing)
    late = await home.http.post("/api/runs", json=home.body(), headers=ann.bearer)
    assert (late.status_code, late.json()["message"]) == (404, "project not found")
    assert home.agent.orders == []


async def test_a_visit_that_begins_too_late_ends_at_once(home: House, ann: Person) -> None:
    sign_in = home.podium.sign_in
    guest = sign_in.accounts.directory.holder(ann.token, now=0.0, peer="")
    assert guest is not None
    left: list[int] = []
    sign_in.visits.enter("one", guest, left.append)
    assert left == []
    await revoke_user(home, ann)
    sign_in.visits.enter("two", guest, left.append)
    assert left == [4401, 4401]


async def test_a_session_of_a_lasting_token_ends_by_itself(
    home: House, ben: Person, clock: MovedClock
) -> None:
    async with Browser(home) as browser:
        await browser.post("/api/session", json={"token": ben.token})
        ticket = (await browser.post("/api/ws-ticket")).json()["ticket"]
        sessions = home.socket(**browser.headers_of_socket)
        async with sessions as wire, socket_of(home, ben) as lasting:
            clock.days = timedelta(days=31)
            clock.look.set()
            assert await closed_with(wire) == 4401
            assert await still_answers(lasting)
        async with home.socket(Origin=home.url) as wire:
            assert await greeted(home, wire, ticket) == "unauthenticated"
