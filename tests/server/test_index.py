"""The live run list: every row that the user may see, again whenever it changes, and no gap."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from protocol.frames import FlowRunStatus, FlowRunStepNotice
from protocol.ids import ProjectId, RunId, UserId
from protocol.rest import LIST_LIMIT
from protocol.states import RunStatus, StepStatus
from server.channel.index import READ_ROWS, Index, View
from server.ports import StepChange
from server.stores.sqlite import SqliteStore
from tests.contract.test_store import NOBODY, STEP, delta, end, new_run, running
from tests.flows.plans import PROJECT
from tests.server.deliveries import Kept, Wire, kept
from tests.server.harness import House, Socket, house
from tests.server.readers import altered


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Kept]:
    async with kept(tmp_path) as parts:
        yield parts


async def row_of(wire: Socket, run_id: str, status: str) -> dict[str, Any]:
    """The next row of a run that has this status."""
    while True:
        frame = await wire.until(type="flow_run_index")
        if (frame["row"]["run"]["id"], frame["row"]["run"]["status"]) == (run_id, status):
            row: dict[str, Any] = frame["row"]
            return row


# --- on a real socket -----------------------------------------------------------------------------


async def test_the_list_comes_newest_first_and_then_what_changes(home: House) -> None:
    home.agent.hold()
    runs = [await home.launch() for _ in range(3)]
    await home.agent.started(3)
    async with home.socket() as wire:
        await wire.receive()
        await wire.send(type="subscribe_index", id="i")
        assert await wire.receive() == {"type": "flow_run_ack", "id": "i"}
        rows = [await wire.receive() for _ in runs]
        assert [frame["row"]["run"]["id"] for frame in rows] == runs[::-1]
        assert {frame["project_id"] for frame in rows} == {home.project_id}
        assert {frame["row"]["steps_done"] for frame in rows} == {0}
        new = await home.launch()
        await row_of(wire, new, "running")
        home.agent.release()
        # What comes of those that end first is passed by while the others are waited for.
        ended = {new: await row_of(wire, new, "completed")}
    listed = (await home.http.get("/api/runs")).json()["runs"]
    assert ended[new]["run"] == next(run for run in listed if run["id"] == new)
    assert ended[new]["steps_done"] == ended[new]["steps_total"] > 0
    assert ended[new]["run"]["report"]["headline"]


async def test_a_new_subscription_replaces_and_an_end_ends(home: House) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    async with home.socket() as wire:
        nobodys = "6f1c2d3e-4b5a-4968-8776-95a4b3c2d1e0"
        await wire.ask(type="subscribe_index", id="1", project_id=nobodys)
        await wire.ask(type="ping", id="2")
        await wire.send(type="subscribe_index", id="3", project_id=home.project_id)
        assert (await wire.receive())["id"] == "3", "nothing came of a project without runs"
        assert (await wire.receive())["row"]["run"]["id"] == run_id
        assert (await wire.ask(type="unsubscribe", id="4"))["type"] == "flow_run_ack"
        await home.end_of(await home.launch())
        await wire.send(type="ping", id="5")
        assert (await wire.receive())["id"] == "5", "no row came meanwhile"
        await wire.send(type="subscribe_index", id="6")
        assert (await wire.receive())["id"] == "6"
        assert (await wire.receive())["type"] == "flow_run_index"


async def test_rows_of_others_never_come(home: House, tmp_path: Path) -> None:
    mine, theirs = await home.launch(), await home.launch()
    await home.end_of(mine)
    await home.end_of(theirs)
    home.agent.hold()
    live = await home.launch()
    await home.agent.started(5)
    for run_id in (theirs, live):
        await altered(tmp_path, "UPDATE flow_runs SET user_id = 'other' WHERE id = ?", run_id)
    store = home.podium.runner._rooms.store
    async with home.socket() as wire:
        await wire.receive()
        await wire.send(type="subscribe_index", id="i")
        await wire.receive()
        assert (await wire.receive())["row"]["run"]["id"] == mine
        frames = [FlowRunStatus(run_id=RunId(live), status=RunStatus.CANCELLING)]
        assert await store.change_run(RunId(live), RunStatus.CANCELLING, frames)
        # What changed first is read first.
        new = await home.launch()
        assert (await wire.receive())["row"]["run"]["id"] == new


# --- its parts ------------------------------------------------------------------------------------


def status(run_id: str) -> list[FlowRunStatus]:
    return [FlowRunStatus(run_id=RunId(run_id), status=RunStatus.RUNNING)]


async def launched(store: SqliteStore, number: int) -> list[str]:
    runs = [f"r{place}" for place in range(number)]
    for run_id in runs:
        await store.launch(new_run(run_id))
    return runs


def states(wire: Wire) -> list[tuple[str, str]]:
    rows = [frame["row"]["run"] for frame in wire.sink.taken()]
    return [(run["id"], run["status"]) for run in rows]


async def test_only_a_hundred_are_listed_and_a_changed_one_comes_again(server: Kept) -> None:
    runs = await launched(server.store, LIST_LIMIT + 5)
    wire = Wire(server.store, server.hub)
    wire.delivery.index.follow(NOBODY, PROJECT)
    await wire.quiet()
    assert [run_id for run_id, _ in states(wire)] == runs[:4:-1]
    await server.store.change_run(RunId("r7"), RunStatus.RUNNING, status("r7"))
    await wire.quiet()
    assert states(wire) == [("r7", "running")]
    wire.delivery.index.follow(NOBODY, ProjectId("another"))
    await server.store.change_run(RunId("r8"), RunStatus.RUNNING, status("r8"))
    await wire.quiet()
    assert states(wire) == []
    wire.delivery.close()
    assert not server.hub._watchers


async def test_steps_are_counted_when_they_have_ended(server: Kept) -> None:
    ref = await running(server.store, "r")
    wire = Wire(server.store, server.hub)
    wire.delivery.index.follow(NOBODY, None)
    await wire.quiet()
    (before,) = wire.sink.taken()
    notice = FlowRunStepNotice(
        run_id=ref.run_id, step_id=STEP, attempt=ref.attempt, code="c", message="m"
    )
    change = StepChange(status=StepStatus.COMPLETED, output={})
    await server.store.append(ref, [delta(ref, 0, "text"), notice])
    await wire.quiet()
    assert wire.sink.taken() == [], "the row is as it was told"
    await server.store.change_step(ref, change, [notice])
    await wire.quiet()
    (after,) = wire.sink.taken()
    assert [it["row"]["steps_done"] for it in (before, after)] == [0, 1]
    assert before["row"]["steps_total"] == after["row"]["steps_total"] > 1


async def test_a_viewer_that_reads_nothing_costs_nothing(server: Kept) -> None:
    runs = await launched(server.store, LIST_LIMIT + 50)
    wire = Wire(server.store, server.hub)
    wire.delivery.index.follow(NOBODY, None)
    await wire.quiet()
    wire.sink.taken()
    view = wire.delivery.index._view
    assert view is not None
    most = 0
    for number in range(2_000):
        for run_id in runs:
            view.note(RunId(run_id))
        most = max(most, len(view.changed) + len(view.told))
        if number == 0:
            await server.store.change_run(RunId("r149"), RunStatus.RUNNING, status("r149"))
    assert most <= 3 * LIST_LIMIT
    await wire.quiet()
    assert states(wire) == [("r149", "running")]


class Slow:
    """The store, of which every read of rows is held between the reading and the answer."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.read = asyncio.Event()
        self.go = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def index(self, *words: Any, **options: Any) -> Sequence[Any]:
        rows = await self._store.index(*words, **options)
        self.read.set()
        await self.go.wait()
        return rows


class ReadFirst(Index):
    """A wrong way: read the list, and only then begin to hear of changes."""

    def follow(self, user: UserId, project_id: ProjectId | None) -> None:
        self._view = View(user, project_id)
        self._wake()

    def pump(self, outbox: Any) -> None:
        if self._rows.ready and self._view is not None:
            self._hub.watch(self._note)
        super().pump(outbox)


class TakenAfter(Index):
    """A wrong way: what changed is crossed off when it has been read, not when reading begins."""

    async def _read(self, view: View) -> Any:
        if view.listing:
            return await super()._read(view)
        only = list(view.changed)[:READ_ROWS]
        rows = await self._visible(view, only=only, limit=READ_ROWS)
        for run_id in only:
            view.changed.pop(run_id, None)
        return view, rows


@pytest.mark.parametrize(
    ("kind", "told"), [(Index, "failed"), (ReadFirst, "queued"), (TakenAfter, "queued")]
)
async def test_what_changes_while_rows_are_read_is_read_again(
    server: Kept, kind: Callable[..., Index], told: str
) -> None:
    """The others are the negative controls; each is caught at one of the two moments."""
    await launched(server.store, 1)
    slow = Slow(server.store)
    wire = Wire(slow, server.hub)  # type: ignore[arg-type] # it is the store but for one wait
    wire.delivery.index = kind(store=slow, hub=server.hub, wake=wire.wake.set)
    if kind is TakenAfter:
        slow.go.set()
        wire.delivery.index.follow(NOBODY, None)
        await wire.quiet()
        slow.read.clear()
        slow.go.clear()
        server.hub._watchers.copy().popitem()[0](RunId("r0"))
    else:
        wire.delivery.index.follow(NOBODY, None)
    wire.delivery.pump(wire.sink)
    await slow.read.wait()
    await end(server.store, "r0", RunStatus.FAILED)
    slow.go.set()
    await wire.quiet()
    assert states(wire)[-1] == ("r0", told)
