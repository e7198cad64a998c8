"""Publishing and subscribing in every order: a reader of the events misses and doubles nothing.

The streams, the delivery and the hub are the real ones; the log is a list whose reads return after
as many turns of the loop as hypothesis chooses, which is when the others move. The last tests take
the guard away and show that the checker sees it.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple, TypeVar, cast
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from protocol.commands import Cursor, Detail
from protocol.ids import Gen, RunId, Seq
from protocol.rest import LogQuery
from protocol.states import RunStatus
from server.channel import framing, hub
from server.channel.hub import MemoryHub
from server.http.sse import Stream
from server.http.streamed import Outlet
from server.ports import Clock, LogEntry, LogHead, Page, RunRecord, Store
from tests.server.readers import parsed

RUN = RunId("0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a01")
LATE_TURNS = 12
IDLE_TURNS = 400
"""More turns than any example needs once everything is published."""


FRAME_BYTES = 60
"""Of one here, as it leaves over a WebSocket, at most."""
T = TypeVar("T")


class Plan(NamedTuple):
    """One example. Numbers are turns of the loop, but for `takes`: events until a reader drops."""

    publishes: list[tuple[int, bool]]
    """How long to wait before each frame, and whether an outline shows it."""
    latencies: list[int]
    """Of the reads of the log, over and over."""
    begins: int
    takes: list[int]
    detail: Detail
    ring: int
    page: int


PLANS = st.builds(
    Plan,
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=12),
    st.lists(st.integers(0, 5), min_size=1, max_size=5),
    st.integers(0, 20),
    st.lists(st.integers(1, 6), max_size=4),
    st.sampled_from(Detail),
    st.integers(1, 6),
    st.integers(1, 4),
)


class Log:
    """The store, as far as a stream reads it."""

    def __init__(self, latencies: Sequence[int], page: int) -> None:
        self.entries: list[LogEntry] = []
        self.ended = False
        self._page = page
        self._latencies = list(latencies)
        self._asked = 0

    async def _turns(self) -> None:
        self._asked += 1
        for _ in range(self._latencies[self._asked % len(self._latencies)]):
            await asyncio.sleep(0)

    def add(self, *, outline: bool, last: bool = False) -> LogEntry:
        kind = "flow_run_finished" if last else "flow_run_status"
        seq = Seq(len(self.entries) + 1)
        self.ended = last
        data = b'{"type":"%b","seq":%d,"at":""}' % (kind.encode(), seq)
        self.entries.append(LogEntry(RUN, seq, data, outline))
        return self.entries[-1]

    @property
    def record(self) -> RunRecord:
        status = RunStatus.COMPLETED if self.ended else RunStatus.RUNNING
        return cast(RunRecord, SimpleNamespace(run=SimpleNamespace(id=RUN, status=status)))

    async def get(self, run_id: RunId) -> RunRecord:
        record = self.record
        await self._turns()
        return record

    async def log(self, run_id: RunId) -> LogHead:
        shown = [entry.seq for entry in self.entries if entry.outline]
        head = LogHead(
            gen=Gen(1),
            head=Seq(len(self.entries)),
            outline_head=shown[-1] if shown else Seq(0),
            floor=Seq(0),
            bases=[(Gen(1), Seq(0))],
        )
        await self._turns()
        return head

    async def page(
        self, run_id: RunId, *, after: Seq, outline: bool, make: Callable[[Page], T]
    ) -> T:
        read = self.entries[after:][: self._page]
        made = make(Page([it for it in read if it.outline >= outline], Seq(after + len(read))))
        await self._turns()
        return made


class Never:
    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


class Dropped(Exception):
    """The reader's connection is gone."""


class Taking:
    """Takes so many events, then its connection drops."""

    def __init__(self, reader: "Reading", room: int | None) -> None:
        self._reader = reader
        self._room = room

    async def write(self, data: bytes) -> None:
        for block in data.split(b"\n\n")[:-1]:
            if self._room == 0:
                raise Dropped
            self._room = None if self._room is None else self._room - 1
            self._reader.take(block)
        await asyncio.sleep(0)


class Reading:
    """A client: it keeps the last `id`, and comes back with it."""

    def __init__(self, log: Log, plan: Plan, ring: MemoryHub) -> None:
        self._log = log
        self._plan = plan
        self._hub = ring
        self._cursor: Cursor | None = None
        self.seen: list[int] = []

    def take(self, block: bytes) -> None:
        event = parsed(block)
        if event.id is not None:
            gen, _, seq = event.id.partition(":")
            self._cursor = Cursor(gen=int(gen), seq=int(seq))
        if "at" in event.frame:
            self.seen.append(event.frame["seq"])

    async def follow(self) -> None:
        for _ in range(self._plan.begins):
            await asyncio.sleep(0)
        for room in [*self._plan.takes, None]:
            if await self._connected(room):
                return

    async def _connected(self, room: int | None) -> bool:
        query = LogQuery(after=self._cursor, detail=self._plan.detail)
        stream = Stream(
            self._log.record, query, store=cast(Store, self._log), hub=self._hub,
            clock=cast(Clock, Never()),
        )  # fmt: skip
        whole = True
        try:
            await stream.open()
            if not stream.nothing_left:
                await stream.write(cast(Outlet, Taking(self, room)))
        except* Dropped:
            whole = False
        finally:
            stream.close()
        return whole


async def publish(log: Log, plan: Plan, ring: MemoryHub) -> None:
    for turns, outline in plan.publishes:
        for _ in range(turns):
            await asyncio.sleep(0)
        ring.publish([log.add(outline=outline)])
    ring.publish([log.add(outline=True, last=True)])


async def played(plan: Plan, make_hub: Callable[[], MemoryHub]) -> tuple[bool, list[int], Log]:
    """Whether the reader came to the end, what it saw, and the log."""
    log, ring = Log(plan.latencies, plan.page), make_hub()
    reader = Reading(log, plan, ring)
    following = asyncio.create_task(reader.follow())
    await publish(log, plan, ring)
    for _ in range(IDLE_TURNS):
        if following.done():
            break
        await asyncio.sleep(0)
    ended = following.done()
    following.cancel()
    await asyncio.wait([following])
    if ended:
        following.result()
        assert ring._listeners == {}, "nobody listens any more"
    return ended, reader.seen, log


def complete(plan: Plan, make_hub: Callable[[], MemoryHub] = MemoryHub) -> bool:
    """The checker: the stream ended, and every frame that it shows came once and in order."""
    with (
        patch.object(hub, "RING_FRAMES", plan.ring),
        patch.object(framing, "PAGE_BYTES", plan.page * FRAME_BYTES),
    ):
        ended, seen, log = asyncio.run(played(plan, make_hub))
    shown = [it.seq for it in log.entries if it.outline or plan.detail is Detail.FULL]
    return ended and seen == shown


@settings(max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PLANS)
def test_no_frame_is_lost_doubled_or_out_of_order(plan: Plan) -> None:
    assert complete(plan)


class LateHub(MemoryHub):
    """A wrong way: the registration takes effect only after the head was read, and what was there
    by then was sent."""

    def listen(self, run_id: RunId, wake: Callable[[RunId], None]) -> None:
        self._later(LATE_TURNS, partial(super().listen, run_id, wake))

    def _later(self, turns: int, register: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        if turns:
            self._waiting = loop.call_soon(self._later, turns - 1, register)
        else:
            register()

    def forget(self, run_id: RunId, wake: Callable[[RunId], None]) -> None:
        self._waiting.cancel()
        super().forget(run_id, wake)


class DeafStream(Stream):
    """A wrong way: it looks whether the run has ended before it listens."""

    async def open(self) -> None:
        ended = (await self._store.get(self._run_id)).run.status.terminal  # type: ignore[union-attr]
        await super().open()
        self._last = self._last if ended else None


def lost_with(make_hub: Callable[[], MemoryHub]) -> Plan:
    try:
        return find(
            PLANS,
            lambda plan: not complete(plan, make_hub),
            settings=settings(
                max_examples=3_000, deadline=None, database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
    except NoSuchExample:
        pytest.fail("the checker accepts the wrong way")


def test_the_checker_sees_what_a_late_registration_loses() -> None:
    assert complete(lost_with(LateHub))


@pytest.mark.parametrize(("kind", "ends"), [(Stream, True), (DeafStream, False)])
def test_an_end_that_the_cursor_is_past_ends_the_stream(kind: type[Stream], *, ends: bool) -> None:
    """A cursor that was cut to the head of an ended run gets no frame that would end it."""
    plan = Plan([], [3], 0, [], Detail.FULL, 4, 4)

    async def over() -> bool:
        log, ring = Log(plan.latencies, plan.page), MemoryHub()
        query = LogQuery(after=Cursor(gen=1, seq=9))
        stream = kind(
            log.record, query, store=cast(Store, log), hub=ring, clock=cast(Clock, Never())
        )
        opening = asyncio.create_task(stream.open())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await publish(log, plan, ring)
        await opening
        reader = Reading(log, plan, ring)
        writing = asyncio.create_task(stream.write(cast(Outlet, Taking(reader, None))))
        for _ in range(IDLE_TURNS):
            await asyncio.sleep(0)
        ended = writing.done()
        writing.cancel()
        await asyncio.wait([writing])
        stream.close()
        return ended

    assert asyncio.run(over()) is ends
