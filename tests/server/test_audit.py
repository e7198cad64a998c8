"""The audit log: what is written down of everything that is done, and what happens when it cannot
be."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from protocol.errors import ProtocolError
from protocol.ids import UserId
from protocol.users import NewToken, NewUser, ProjectChange
from server.cli import main
from server.client import Client
from server.commands.desk import Desk, LocalDesk, RemoteDesk, open_desk
from server.settings import Settings
from server.users import audit
from server.users.audit import FILE, KEPT, MAX_REFUSED, MAX_WAITING, OK, Audit, Deed, Entry
from server.world import SystemClock
from tests.server.harness import TOKEN, House, plain_http
from tests.server.people import admit, shared_house, socket_of

NOBODY = "00000000-0000-4000-8000-000000000000"
QUESTION = "a-question-that-nobody-else-may-read"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with shared_house(tmp_path) as opened:
        yield opened


async def told(home: House, place: Path) -> list[dict[str, Any]]:
    """All lines so far."""
    await home.podium.sign_in.audit._write()
    text = await asyncio.to_thread((place / "data" / FILE).read_text)
    return [json.loads(line) for line in text.splitlines()]


def facts(lines: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(line.get(name) for name in names) for line in lines]


async def test_who_did_what_with_which_outcome(home: House, tmp_path: Path) -> None:
    ann = await admit(home, "ann", tmp_path / "project")
    async with (
        plain_http(base_url=home.url, headers=ann.bearer) as http,
        socket_of(home, ann) as wire,
    ):
        body = home.body(input={"question": QUESTION, "paths": ["src"]})
        run_id = (await http.post("/api/runs", json=body)).json()["run_id"]
        await wire.send(type="subscribe", id="s", run_id=run_id)
        assert [frame async for frame in wire.frames_of(run_id)]
        await wire.ask(type="subscribe", id="again", run_id=run_id)
        await wire.ask(type="cancel", id="c", run_id=NOBODY)
        launch = {"project_id": home.project_id, "command": f'/code-review small src "{QUESTION}"'}
        for _ in range(2):
            made = await wire.ask(type="launch", id="l", key="k", **launch)
        await http.post(f"/api/runs/{run_id}/cancel")
        for way in ("", "", "/events", "/report.md", "/recording", "/frames"):
            await http.get(f"/api/runs/{run_id}{way}")
        await http.post("/api/ws-ticket", json={"on_behalf_of": "ben"})
        await http.post("/api/users", json={"name": "eve"})
    lines = await told(home, tmp_path)
    assert facts(lines, "who", "what", "outcome", "run_id", "user") == [
        ("local", "sign_in", "ok", None, None),
        ("local", "user_added", "ok", None, "ann"),
        ("ann", "sign_in", "ok", None, None),
        ("ann", "launch", "ok", run_id, None),
        ("ann", "view", "ok", run_id, None),
        ("ann", "cancel", "not_found", NOBODY, None),
        ("ann", "launch", "ok", made["run_id"], None),
        ("ann", "launch", "ok", made["run_id"], None),
        ("ann", "cancel", "409", run_id, None),
        ("ann", "view", "ok", run_id, None),
        ("ann", "export", "ok", run_id, None),
        ("ann", "ticket", "forbidden", None, None),
        ("ann", "user_added", "forbidden", None, None),
    ]
    assert all(line["peer"] == "127.0.0.1" for line in lines)
    assert {line["token_id"] for line in lines if line["who"] == "ann"} == {ann.token_id}
    text = json.dumps(lines)
    assert QUESTION not in text
    assert ann.token not in text
    assert (tmp_path / "data" / FILE).stat().st_mode & 0o777 == 0o600


async def test_strangers_are_written_down_and_their_tokens_are_not(
    home: House, tmp_path: Path
) -> None:
    async with plain_http(base_url=home.url) as stranger:
        for token in ("first-wrong-one", "second-wrong-one"):
            await stranger.get("/api/runs", headers={"Authorization": f"Bearer {token}"})
            await stranger.post("/api/session", json={"token": token})
        await stranger.get("/api/runs", headers={"Host": "evil.example"})
    lines = [line for line in await told(home, tmp_path) if line["outcome"] != OK]
    assert facts(lines, "who", "what", "outcome") == [
        (None, "sign_in", "unauthenticated"),
        (None, "sign_in", "forbidden"),
    ]
    assert "wrong-one" not in json.dumps(lines)


async def test_a_full_disk_fails_no_request_and_is_said_once(
    home: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    trail = home.podium.sign_in.audit
    append = audit._append
    with capture_logs() as logged:
        monkeypatch.setattr(audit, "_append", full)
        for _ in range(3):
            assert (await home.http.post("/api/users", json={"name": "x y"})).status_code == 400
            await trail._write()
        monkeypatch.setattr(audit, "_append", append)
        await admit(home, "ann")
        lines = await told(home, tmp_path)
    ours = [entry["event"] for entry in logged if entry["event"].startswith("audit")]
    assert ours == ["audit_failed", "audit_goes_on"]
    assert sum(line.get("lost", 0) for line in lines) >= 3
    assert lines[-1].get("lost") or lines[-2].get("lost"), "the gap is told"


def entry(number: int = 0, *, outcome: str = OK) -> Entry:
    return Entry(what=Deed.VIEW, who=UserId("ann"), outcome=outcome, run_id=str(number))


@pytest.fixture
def trail(tmp_path: Path) -> Audit:
    return Audit(tmp_path, clock=SystemClock())


async def lines_of(trail: Audit, place: Path) -> list[dict[str, Any]]:
    await trail.stop()
    text = await asyncio.to_thread((place / FILE).read_text)
    return [json.loads(line) for line in text.splitlines()]


async def test_what_waits_for_the_disk_is_bounded(trail: Audit, tmp_path: Path) -> None:
    for number in range(MAX_WAITING + 5):
        trail.tell(entry(number))
    lines = await lines_of(trail, tmp_path)
    assert len(lines) == MAX_WAITING + 1
    assert lines[-1]["lost"] == 5


async def test_refusals_of_one_user_are_bounded_and_deeds_are_not(
    trail: Audit, tmp_path: Path
) -> None:
    for number in range(10 * MAX_REFUSED):
        trail.tell(entry(number, outcome="not_found"))
        trail.tell(entry(number))
    lines = await lines_of(trail, tmp_path)
    assert [line.get("outcome") for line in lines].count("not_found") == MAX_REFUSED
    assert [line.get("outcome") for line in lines].count(OK) == 10 * MAX_REFUSED
    assert lines[-1]["lost"] == 9 * MAX_REFUSED


async def test_old_files_are_kept_up_to_a_number(
    trail: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_BYTES", 1)
    for number in range(KEPT + 3):
        trail.tell(entry(number))
        await trail.stop()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{FILE}.{number}" for number in range(1, KEPT + 1)]
    newest = json.loads((tmp_path / f"{FILE}.1").read_text())
    oldest = json.loads((tmp_path / f"{FILE}.{KEPT}").read_text())
    assert (newest["run_id"], oldest["run_id"]) == (str(KEPT + 2), "3")


async def test_who_reads_misses_no_line_while_the_files_go_on(
    trail: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server begins a new file, and each gets an older one's name, between two that are read
    and, in another order, between two that are opened."""
    monkeypatch.setattr(audit, "MAX_BYTES", 1)
    for number in range(KEPT):
        trail.tell(entry(number))
        await trail.stop()
    monkeypatch.undo()
    trail.tell(entry(KEPT))
    await trail.stop()
    opens: Callable[..., IO[Any]] = Path.open
    rotated: list[Path] = []

    def meanwhile(path: Path, *arguments: Any, **named: Any) -> IO[Any]:
        file = opens(path, *arguments, **named)
        if path.name == f"{FILE}.2" and not rotated:
            rotated.append(path)
            audit._rotate(tmp_path / FILE)
        return file

    monkeypatch.setattr(Path, "open", meanwhile)
    command = ["audit", "--json", "--data", str(tmp_path)]
    said = await asyncio.to_thread(CliRunner().invoke, main, command)
    runs = [json.loads(line)["run_id"] for line in said.stdout.splitlines()]
    assert rotated
    assert runs == sorted(set(runs)), "none twice, the oldest first"
    # The oldest has just left the last place, and was not open yet.
    assert runs[-KEPT:] == [str(number) for number in range(1, KEPT + 1)]


async def refused(desk: Desk) -> None:
    """One of each change that is done, and every kind that is not."""
    ann = await desk.add(NewUser(name="ann"))
    await desk.new_token("ann", NewToken())
    for attempt in (
        desk.add(NewUser(name="ann")),
        desk.add(NewUser(name="ben", projects=["/nowhere"])),
        desk.new_token("eve", NewToken()),
        desk.revoke("local"),
        desk.revoke_token("ann", "no-such-token"),
        desk.change_projects("ann", ProjectChange(remove=["/nowhere"])),
        desk.revoke("x" * 200),
    ):
        with pytest.raises(ProtocolError):
            await attempt
    await desk.revoke_token("ann", ann.token_id)
    await desk.revoke("ann")


async def test_changes_without_a_server_are_written_down_as_with_one(tmp_path: Path) -> None:
    with_one, without = tmp_path / "with", tmp_path / "without"
    names = ("who", "what", "outcome", "user")
    with_one.mkdir()
    async with shared_house(with_one) as home, Client(home.url, TOKEN) as client:
        await refused(RemoteDesk(client))
        served = await told(home, with_one)
    settings = Settings(data=str(without / "data"), project_roots=[str(without)])
    async with open_desk(settings, None) as desk:
        assert isinstance(desk, LocalDesk)
        await refused(desk)
    text = await asyncio.to_thread((without / "data" / FILE).read_text)
    lines = [json.loads(line) for line in text.splitlines()]
    changes = [line for line in served if line["what"] != "sign_in"]
    assert facts(lines, *names) == facts(changes, *names)
    assert [line["outcome"] for line in lines].count(OK) == 4
    assert {line["way"] for line in lines} == {"command_line"}
    assert [bool(line.get("token_id")) for line in lines if line["outcome"] != OK] == [False] * 7
