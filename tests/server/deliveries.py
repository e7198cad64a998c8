"""One socket's delivery over the real store and hub, without the socket: what it sends is kept."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from protocol.commands import Subscribe
from protocol.connection import Connection
from protocol.frames import ControlFrame
from protocol.ids import RunId
from server.channel.delivery import Delivery
from server.channel.hub import MemoryHub
from server.limits import LimitSettings, wire_limits
from server.ports import Batch, Hub, Store
from server.stores.sqlite import SqliteStore
from server.world import SystemClock

LIMITS = wire_limits(LimitSettings())


class Sink:
    """An outbox that is never full: what came, in order, as JSON types."""

    full = False

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []

    def control(self, frame: ControlFrame) -> None:
        self.frames.append(msgspec.json.decode(msgspec.json.encode(frame)))

    def batch(self, batch: Batch) -> None:
        self.frames += map(msgspec.json.decode, batch.payloads)

    async def flush(self) -> None: ...

    def abort(self) -> None: ...

    def taken(self) -> list[dict[str, Any]]:
        """What came since the last time."""
        frames, self.frames = self.frames, []
        return frames

    @property
    def seqs(self) -> list[int]:
        """Of the stored frames."""
        return [frame["seq"] for frame in self.frames if "at" in frame and "seq" in frame]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == f"flow_run_{kind}"]


class Narrow(Sink):
    """Full as soon as it has anything, as one is whose every page is large."""

    @property
    def full(self) -> bool:  # type: ignore[override] # a constant there
        return bool(self.frames)


class Wire:
    """A delivery with its connection, and what it has sent."""

    def __init__(self, store: Store, hub: Hub, *, kind: type[Delivery] = Delivery) -> None:
        self.connection = Connection(LIMITS, now=0)
        self.wake = asyncio.Event()
        self.delivery = kind(self.connection, store=store, hub=hub, wake=self.wake.set)
        self.sink = Sink()
        self._store = store

    async def follow(self, run_id: str, **how: Any) -> None:
        """Subscribe, with the answer sent first."""
        record = await self._store.get(RunId(run_id))
        assert record is not None
        command = Subscribe(id="s", run_id=RunId(run_id), **how)
        answer, begin = await self.delivery.follow(record, command)
        self.sink.control(answer)
        begin()

    async def round(self) -> list[dict[str, Any]]:
        """One round of a writer whose outbox is full at once; what it sends."""
        sink = Narrow()
        while not sink.frames and (self.wake.is_set() or self.reading):
            if self.reading and not self.wake.is_set():
                await asyncio.wait(self.reading)
            self.wake.clear()
            if self.delivery.pump(sink):
                self.wake.set()
        self.sink.frames += sink.frames
        return sink.frames

    async def quiet(self) -> None:
        """Send everything that there is to send."""
        while self.wake.is_set() or self.reading:
            self.wake.clear()
            while self.delivery.pump(self.sink):
                pass
            if self.reading:
                await asyncio.wait(self.reading)

    @property
    def reading(self) -> list["asyncio.Task[Any]"]:
        both = (self.delivery._page._reading, self.delivery.index._rows._reading)
        return [task for task in both if task is not None]


class Kept(NamedTuple):
    store: SqliteStore
    hub: MemoryHub


@asynccontextmanager
async def kept(place: Path, hub: MemoryHub | None = None) -> AsyncIterator[Kept]:
    """The real store and hub of one server."""
    hub = hub or MemoryHub()
    async with SqliteStore(
        place, clock=SystemClock(), committed=hub.publish, boot_id="b", tick=0
    ) as store:
        yield Kept(store, hub)
