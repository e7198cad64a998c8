"""One socket's delivery over the real store and hub: whose turn it is, and what it costs."""

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from protocol.commands import Cursor, Detail
from protocol.connection import Following
from protocol.errors import ProtocolError
from protocol.frames import Channel, FlowRunStepDelta, FlowRunStepNotice
from protocol.ids import RunId
from protocol.states import RunStatus
from server.channel import framing
from server.channel import hub as hub_module
from server.channel.delivery import Delivery
from server.channel.framing import PAGE_BYTES
from server.channel.outbox import Outbox
from server.ports import AttemptRef, Batch, StoreUnavailable
from server.stores import log_reader
from server.stores.log_reader import READERS
from server.stores.sqlite import SqliteStore
from tests.contract.test_store import end, running
from tests.server.deliveries import Kept, Wire, kept

AT = "2026-01-01T00:00:00.000Z"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Kept]:
    async with kept(tmp_path) as parts:
        yield parts


class Counting:
    """The store, which counts what it is asked, and fails or waits where it is told to."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.asked: Counter[str] = Counter()
        self.broken: str | None = None
        self.waiting = asyncio.Event()
        self.held: str | None = None

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self._store, name)

        async def ask(*words: Any, **options: Any) -> Any:
            self.asked[name] += 1
            if name == self.broken:
                raise StoreUnavailable("the test says so")
            if name == self.held:
                self.waiting.set()
                await asyncio.Event().wait()
            return await asked(*words, **options)

        return ask


def texts(ref: AttemptRef, count: int, *, size: int = 100, first: int = 0) -> list[Any]:
    """Frames that are not merged, as none goes on where the one before it ends."""
    return [
        FlowRunStepDelta(
            run_id=ref.run_id, step_id=ref.step_id, attempt=ref.attempt, channel=Channel.TEXT,
            offset=2 * size * (first + number), text="x" * size,
        )
        for number in range(count)
    ]  # fmt: skip


# --- registrations --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fails", "is cancelled", "is refused"])
async def test_a_subscription_that_comes_to_nothing_leaves_no_listener(
    server: Kept, how: str
) -> None:
    await running(server.store, "r")
    counting = Counting(server.store)
    wire = Wire(counting, server.hub)
    if how == "is refused":
        with pytest.raises(ProtocolError):
            await wire.follow("r", after=Cursor(gen=1, seq=1), tail=1)
    elif how == "fails":
        counting.broken = "log"
        with pytest.raises(StoreUnavailable):
            await wire.follow("r")
    else:
        counting.held = "log"
        following = asyncio.create_task(wire.follow("r"))
        await counting.waiting.wait()
        assert server.hub._listeners
        following.cancel()
        await asyncio.wait([following])
    assert not server.hub._listeners
    assert not wire.delivery._opening


async def test_one_that_comes_to_nothing_takes_nothing_from_another(server: Kept) -> None:
    """Of the same run on the same socket: the one that there is, and one that is being made."""
    ref = await running(server.store, "r")
    counting = Counting(server.store)
    wire = Wire(counting, server.hub)
    await wire.follow("r")
    counting.broken = "log"
    with pytest.raises(StoreUnavailable):
        await wire.follow("r")
    counting.broken = None
    await server.store.append(ref, texts(ref, 1))
    await wire.quiet()
    assert wire.sink.seqs == [1, 2, 3]
    # It is left while it moves: what it moves to is still heard of.
    record = await server.store.get(RunId("r"))
    assert record is not None
    moving = asyncio.create_task(wire.follow("r", tail=0))
    await asyncio.sleep(0)
    wire.delivery.unfollow(RunId("r"))
    await moving
    wire.sink.taken()
    await server.store.append(ref, texts(ref, 1, first=1))
    await wire.quiet()
    assert wire.sink.seqs == [4]
    wire.delivery.unfollow(RunId("r"))
    assert not server.hub._listeners


# --- heads ----------------------------------------------------------------------------------------


async def test_quiet_subscriptions_cost_the_store_nothing(server: Kept) -> None:
    refs = [await running(server.store, f"r{number}") for number in range(20)]
    server.hub._rings.clear()  # as after a restart: nothing was published since
    counting = Counting(server.store)
    wire = Wire(counting, server.hub)
    for number, ref in enumerate(refs):
        await wire.follow(ref.run_id, detail=Detail.OUTLINE if number % 2 else Detail.FULL)
    await wire.quiet()
    counting.asked.clear()
    for _ in range(3):
        wire.wake.set()
        await wire.quiet()
        wire.delivery.heartbeat(AT)
    await server.store.append(refs[0], texts(refs[0], 3))
    await wire.quiet()
    heads = wire.delivery.heartbeat(AT).heads
    assert wire.sink.seqs[-3:] == [3, 4, 5]
    assert heads == {"r0": 5} | {f"r{number}": 2 for number in range(1, 20)}
    assert not counting.asked


async def test_a_head_is_the_logs_whatever_becomes_of_the_ring(
    server: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both details, folded or not, with and without a ring, for who came before and after."""
    monkeypatch.setattr(hub_module, "RINGS_BYTES", 100)
    ref = await running(server.store, "r")
    early = [Wire(server.store, server.hub) for _ in range(2)]
    for wire, detail in zip(early, (Detail.FULL, Detail.OUTLINE), strict=True):
        await wire.follow("r", detail=detail)
    await server.store.append(ref, texts(ref, 7))
    await end(server.store, "r", RunStatus.FAILED)
    late = [Wire(server.store, server.hub) for _ in range(2)]
    for wire, detail in zip(late, (Detail.FULL, Detail.OUTLINE), strict=True):
        await wire.follow("r", detail=detail)
    assert await server.store.fold()
    log = await server.store.log(RunId("r"))
    assert log is not None
    for full, outline in (early, late):
        assert full.delivery.heartbeat(AT).heads == {"r": log.head}
        assert outline.delivery.heartbeat(AT).heads == {"r": log.outline_head}
        for wire in (full, outline):
            await wire.quiet()
    assert early[0].sink.seqs == late[0].sink.seqs == list(range(1, log.head + 1))
    assert early[1].sink.seqs == late[1].sink.seqs == [1, 2, log.head]


# --- whose turn it is -----------------------------------------------------------------------------


class First(Delivery):
    """A wrong way: a run that has more is served on, to its end."""

    def _line_up(self, run_id: RunId, following: Following) -> None:
        super()._line_up(run_id, following)
        if run_id in self._behind:
            self._behind = {run_id: None, **self._behind}

    def _serve(self, run_id: RunId, outbox: Outbox) -> None:
        super()._serve(run_id, outbox)
        if run_id in self._due:
            self._due = {run_id: None, **self._due}


def notices(ref: AttemptRef, count: int) -> list[FlowRunStepNotice]:
    """Frames that every detail shows, about 230 bytes each."""
    return [
        FlowRunStepNotice(
            run_id=ref.run_id, step_id=ref.step_id, attempt=ref.attempt, code="c", message="m" * 50
        )
        for _ in range(count)
    ]  # fmt: skip


def stretches(frames: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """The runs of the stored frames, and how many of one run follow each other."""
    runs = [frame["run_id"] for frame in frames if "at" in frame and "seq" in frame]
    return [(run_id, len(list(those))) for run_id, those in groupby(runs)]


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight frames or so."""
    for module in (framing, log_reader):
        monkeypatch.setattr(module, "PAGE_BYTES", 2_000)


@pytest.mark.parametrize("detail", Detail)
@pytest.mark.parametrize("source", ["log", "ring"])
@pytest.mark.parametrize("kind", [Delivery, First])
@pytest.mark.usefixtures("small_pages")
async def test_runs_are_served_in_turn(
    server: Kept, kind: type[Delivery], source: str, detail: Detail
) -> None:
    """Two long replays, and a run that says something all the time. `First` is the negative
    control."""
    for run_id in ("a", "b"):
        ref = await running(server.store, run_id)
        await server.store.append(ref, notices(ref, 100))
    if source == "log":
        server.hub._rings.clear()
    ref = await running(server.store, "live")
    wire = Wire(server.store, server.hub, kind=kind)
    for run_id in ("live", "a", "b"):
        await wire.follow(run_id, detail=detail)
    while len(wire.sink.of("caught_up")) < 3:
        await server.store.append(ref, notices(ref, 1))
        assert await wire.round()
    order = stretches(wire.sink.frames)
    long = [run_id for run_id, _ in order if run_id != "live"]
    in_turn = all(one != next_one for one, next_one in pairwise(long))
    assert len(long) >= 20 or kind is First
    assert (in_turn and max(count for _, count in order) <= 20) is (kind is Delivery)


# --- falling behind -------------------------------------------------------------------------------


async def test_a_reader_that_the_ring_has_left_is_told_once(
    server: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "RING_FRAMES", 4)
    ref = await running(server.store, "r")
    wire = Wire(server.store, server.hub)
    await wire.follow("r")
    await wire.quiet()
    for times in (1, 2):
        await server.store.append(ref, notices(ref, 10))
        await wire.quiet()
        lagging = wire.sink.of("lagging")
        assert lagging == [{"type": "flow_run_lagging", "run_id": "r", "behind": 10}] * times
        # Up again, and that is not told.
        await server.store.append(ref, notices(ref, 3))
        await wire.quiet()
        assert wire.sink.of("lagging") == lagging
    assert wire.sink.seqs == list(range(1, 29))
    late = Wire(server.store, server.hub)
    await late.follow("r")
    await late.quiet()
    assert late.sink.seqs == wire.sink.seqs
    assert late.sink.of("lagging") == [], "a replay is no lag"


@pytest.mark.parametrize("detail", Detail)
@pytest.mark.usefixtures("small_pages")
async def test_frames_that_expire_during_their_replay_are_told(
    server: Kept, detail: Detail
) -> None:
    ref = await running(server.store, "r")
    await server.store.append(ref, notices(ref, 100))
    await end(server.store, "r", RunStatus.FAILED)
    assert await server.store.fold()
    server.hub._rings.clear()
    wire = Wire(server.store, server.hub)
    await wire.follow("r", detail=detail)
    await wire.round()
    await wire.round()
    assert await server.store.expire("2999-01-01T00:00:00.000Z") == 1
    await wire.quiet()
    assert 0 < len(wire.sink.seqs) < 50
    *_, reset, caught_up = wire.sink.frames
    assert (reset["type"], reset["head"], reset["gen"]) == ("flow_run_reset", 103, 1)
    assert reset["snapshot"]["status"] == "failed"
    assert caught_up == {"type": "flow_run_caught_up", "run_id": "r", "seq": 103}
    assert wire.delivery.heartbeat(AT).heads == {"r": 103}


async def test_a_log_with_a_hole_is_not_taken_for_a_whole_one(server: Kept, tmp_path: Path) -> None:
    ref = await running(server.store, "r")
    await server.store.append(ref, notices(ref, 10))
    server.hub._rings.clear()

    def damage() -> None:
        with closing(sqlite3.connect(tmp_path / "podium.db")) as db, db:
            db.execute("DELETE FROM flow_frames WHERE seq = 7")

    await asyncio.to_thread(damage)
    wire = Wire(server.store, server.hub)
    await wire.follow("r")
    with pytest.raises(StoreUnavailable, match="hole after 6"):
        await wire.quiet()
    assert wire.sink.seqs == [1, 2, 3, 4, 5, 6]


# --- memory ---------------------------------------------------------------------------------------


class Gate:
    """Holds every page that is being read in its thread, and counts them."""

    def __init__(self, page: Callable[..., Any], threads: int) -> None:
        self._page = page
        self._loop = asyncio.get_running_loop()
        self._threads = threads
        self.reading = 0
        self.all_reading = asyncio.Event()
        self.go = threading.Event()

    def __call__(self, *words: Any, **options: Any) -> Any:
        self._loop.call_soon_threadsafe(self._count)
        self.go.wait(20)
        return self._page(*words, **options)

    def _count(self) -> None:
        self.reading += 1
        if self.reading == self._threads:
            self.all_reading.set()


@pytest.mark.parametrize("readers", [READERS, 30])
async def test_only_a_few_pages_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readers: int
) -> None:
    """Whoever asks for them: thirty sockets here. The second is the negative control."""
    monkeypatch.setattr(log_reader, "READERS", readers)
    async with kept(tmp_path) as server:
        ref = await running(server.store, "r")
        for number in range(10):
            await server.store.append(ref, texts(ref, 10, size=200_000, first=10 * number))
        server.hub._rings.clear()
        gate = Gate(log_reader.page, readers)
        monkeypatch.setattr(log_reader, "page", gate)
        wires = [Wire(server.store, server.hub) for _ in range(30)]
        for wire in wires:
            await wire.follow("r")
            wire.delivery.pump(wire.sink)
        async with asyncio.timeout(20):
            await gate.all_reading.wait()
        assert gate.reading == readers
        gate.go.set()
        held = []
        for wire in wires:
            await asyncio.wait(wire.reading)
            found = wire.reading[0].result().found
            assert isinstance(found, Batch)
            held.append(len(found.wire))
        assert max(held) <= PAGE_BYTES, "and each holds one, of large frames too"
        await wires[0].quiet()
        assert wires[0].sink.seqs == list(range(1, 103))
        for wire in wires:
            wire.delivery.close()
