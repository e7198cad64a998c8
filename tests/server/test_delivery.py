"""One socket's delivery over the real store and hub: whose turn it is, and what it costs."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from protocol.commands import Cursor, Detail
from protocol.errors import ProtocolError
from protocol.frames import Channel, FlowRunStepDelta
from protocol.ids import RunId
from protocol.states import RunStatus
from server.channel import hub as hub_module
from server.ports import AttemptRef, StoreUnavailable
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
