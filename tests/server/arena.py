"""A store, a hub and a few readers that move one at a time, in an order that a test chooses.

All of it is the real thing: the SQLite file, the writer with its transactions, the hub, and for
each reader a Connection and a Delivery. Only the moments are the test's: the store has no threads,
what it has read waits at a gate until it is let through, and so does a commit, before and behind.
The clients are
models of what docs/wire.md asks of one; what they see that they must not is a Violation.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Self, TypeVar, cast
from unittest.mock import patch

import msgspec

from protocol.commands import Cursor, Detail, Subscribe
from protocol.connection import Connection
from protocol.frames import Channel as Stream
from protocol.frames import (
    ControlFrame,
    FlowRunCaughtUp,
    FlowRunReset,
    FlowRunStepDelta,
    FlowRunStepNotice,
    FlowRunSubscribed,
)
from protocol.ids import RunId
from protocol.states import RunStatus
from server.channel.delivery import Delivery
from server.channel.hub import MemoryHub
from server.ports import AttemptRef, Batch, LogEntry, RunRecord, Store, StoreUnavailable
from server.stores import sqlite
from server.stores.log_reader import LogReader
from server.stores.sqlite import FILE, SqliteStore
from server.stores.writer import Tick
from server.world import SystemClock
from tests.contract.test_store import end, running, whole
from tests.server.deliveries import LIMITS

AT = "2026-01-01T00:00:00.000Z"
BEATS = 4
ROUNDS = 1_000
"""More than it takes to send everything there is."""


T = TypeVar("T")


class Violation(AssertionError):
    """A client has seen what the wire promises that it never sees, or not what it promises."""


class Gates:
    """Where reads and commits wait."""

    def __init__(self) -> None:
        self.open = True
        self.reads: list[asyncio.Future[None]] = []
        self.commits: list[asyncio.Future[None]] = []

    async def wait(self, waiting: list["asyncio.Future[None]"]) -> None:
        if self.open:
            return
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(gate)
        try:
            await gate
        finally:
            if gate in waiting:
                waiting.remove(gate)

    def let(self, waiting: list["asyncio.Future[None]"], number: int = 0) -> None:
        if waiting:
            waiting.pop(number % len(waiting)).set_result(None)

    async def settled(self) -> None:
        """Until nobody moves by itself any more: no thread has a part in it."""
        loop = asyncio.get_running_loop()
        while loop._ready:  # type: ignore[attr-defined] # exact, where a number of turns would not be
            await asyncio.sleep(0)


class GatedStore:
    """The store, whose answers wait."""

    def __init__(self, store: SqliteStore, gates: Gates) -> None:
        self._store = store
        self._gates = gates

    def __getattr__(self, name: str) -> Any:
        read = getattr(self._store, name)

        async def gated(*words: Any, **options: Any) -> Any:
            answer = await read(*words, **options)
            await self._gates.wait(self._gates.reads)
            return answer

        return gated


class InlineDb:
    """What the store uses of aiosqlite, without its thread: a statement is done when it is asked
    for, so that an order of moves is always the same one."""

    def __init__(self, path: Any, **options: Any) -> None:
        self.real = sqlite3.connect(path, **options)
        # Nothing here hangs on the disk: what a power cut takes is the test's to say.
        self.real.execute("PRAGMA synchronous=OFF")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.real.close()

    @property
    def row_factory(self) -> Any:
        return self.real.row_factory

    @row_factory.setter
    def row_factory(self, factory: Any) -> None:
        self.real.row_factory = factory

    async def execute(self, sql: str, values: Any = ()) -> "InlineCursor":
        if sql.startswith("PRAGMA synchronous"):
            sql = "PRAGMA synchronous=OFF"
        return InlineCursor(self.real.execute(sql, values))

    async def executemany(self, sql: str, values: Any) -> "InlineCursor":
        return InlineCursor(self.real.executemany(sql, values))

    async def execute_fetchall(self, sql: str, values: Any = ()) -> list[Any]:
        found: list[Any] = self.real.execute(sql, values).fetchall()
        return found


class InlineCursor:
    def __init__(self, real: sqlite3.Cursor) -> None:
        self.real = real
        self.rowcount = real.rowcount

    async def fetchone(self) -> Any:
        return self.real.fetchone()


class GatedDb(InlineDb):
    """The writer's connection, whose commits wait."""

    def __init__(self, db: InlineDb, arena: "Arena") -> None:
        self.real = db.real
        self.arena = arena

    async def execute(self, sql: str, values: Any = ()) -> InlineCursor:
        gates = self.arena.gates
        if sql == "COMMIT":
            await gates.wait(gates.commits)
        done = await super().execute(sql, values)
        if sql == "COMMIT":
            await gates.wait(gates.commits)
        return done


async def inline(work: Callable[..., T], *words: Any, **options: Any) -> T:
    """In place of `asyncio.to_thread`."""
    return work(*words, **options)


class InlineReader(LogReader):
    """Without its threads, too."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._do(work)


class PublishFirst(Tick):
    """A wrong way: the hub gets the frames before they are committed."""

    async def write(self) -> list[LogEntry]:
        entries = await super().write()
        cast(GatedDb, self.db).arena.hub.publish(entries)
        return entries


# --- one reader -----------------------------------------------------------------------------------


class Seen(msgspec.Struct):
    """Of a stored frame, as a client reads it."""

    seq: int


_SEEN = msgspec.json.Decoder(Seen)


class Client:
    """Keeps `last` and what it has built from; takes `last + 1` only, in outline anything above."""

    def __init__(self, detail: Detail, *, lossy: bool) -> None:
        self.detail = detail
        self.gen, self.last, self.base = 1, 0, 0
        self.frames: list[tuple[int, bytes]] = []
        """What it has after `base`."""
        self.owed = False
        """Whether `caught_up` is still to come."""
        self.asked: Subscribe | None = None
        self.in_good_faith = False
        self.beaten = -1
        self._lossy = lossy

    def ask(self, run_id: RunId, number: int) -> Subscribe | None:
        """A subscription from one of the edges; None while another one is not answered."""
        if self.asked is not None:
            return None
        here = Cursor(gen=self.gen, seq=self.last)
        ways: list[dict[str, Any]] = [
            {"after": here}, {"after": here},
            {},
            {"after": Cursor(gen=self.gen, seq=max(0, self.last - 2))},
            {"after": Cursor(gen=self.gen, seq=self.last + 3)},
            {"after": Cursor(gen=self.gen + 1_000, seq=self.last)},  # one that never was
            {"tail": 2},
        ]  # fmt: skip
        way = ways[number % len(ways)]
        self.in_good_faith = way.get("after") == here
        self.asked = Subscribe(id="s", run_id=run_id, detail=self.detail, **way)
        return self.asked

    def control(self, frame: ControlFrame) -> None:
        match frame:
            case FlowRunReset():
                self._reset(frame)
            case FlowRunCaughtUp(seq=seq):
                if not self.owed:
                    raise Violation("caught_up came again")
                if seq != self.last and not self._lossy:
                    raise Violation(f"caught_up names {seq}, the last frame was {self.last}")
                self.owed = False

    def answer(self, frame: FlowRunSubscribed | FlowRunReset) -> None:
        asked, self.asked = self.asked, None
        self.owed = True
        if isinstance(frame, FlowRunReset):
            self._reset(frame)
        else:
            self._subscribed(frame, asked)

    def _reset(self, frame: FlowRunReset) -> None:
        self.gen, self.last, self.base, self.frames = frame.gen, frame.head, frame.head, []

    def _subscribed(self, frame: FlowRunSubscribed, asked: Subscribe | None) -> None:
        start = frame.after
        if self.in_good_faith and asked is not None and asked.after is not None:
            if asked.after.gen == frame.gen and start != asked.after.seq:
                raise Violation(f"{asked.after.seq} was shown, and taken back to {start}")
            if start > self.last:
                raise Violation(f"it begins after {start}, the client has {self.last}")
        self.gen = frame.gen
        tail = asked is not None and asked.tail is not None
        if tail or start > self.last:  # the client said itself that it has nothing before
            self.base, self.frames = start, []
        self.last, self.base = start, min(self.base, start)
        self.frames = [(seq, data) for seq, data in self.frames if seq <= start]

    def take(self, data: bytes) -> None:
        seq = _SEEN.decode(data).seq
        full = self.detail is Detail.FULL
        if not full and b'"flow_run_step_delta"' in data:
            raise Violation(f"{seq} is not for an outline")
        if (seq == self.last + 1) if full else (seq > self.last):
            self.last = seq
            self.frames.append((seq, data))
        elif not self._lossy:
            raise Violation(f"{seq} came after {self.last}")

    def beat(self, head: int | None) -> bool:
        """Whether a heartbeat says that something was lost."""
        still, self.beaten = self.last == self.beaten, self.last
        return head is not None and head > self.last and still and self.asked is None


class Outbox:
    """Full after two portions, so that a page takes several rounds."""

    def __init__(self) -> None:
        self.items: list[ControlFrame | bytes] = []
        self._portions = 0

    @property
    def full(self) -> bool:
        return self._portions >= 2

    def control(self, frame: ControlFrame) -> None:
        self.items.append(frame)

    def batch(self, batch: Batch) -> None:
        self.items += batch.payloads
        self._portions += 1

    async def flush(self) -> None: ...

    def abort(self) -> None: ...


class Reader:
    """A client and, while it is connected, its socket's end at the server."""

    def __init__(self, world: "World", detail: Detail) -> None:
        self.world = world
        self.client = Client(detail, lossy=world.way.lossy)
        self.delivery: Delivery | None = None
        self.loses = False
        self._more = False
        self._following: asyncio.Task[None] | None = None

    def connect(self) -> Delivery:
        self.wake = asyncio.Event()
        self.connection = Connection(LIMITS, now=0)
        self._more = False
        store = cast(Store, GatedStore(self.world.arena.store, self.world.arena.gates))
        self.delivery = self.world.way.delivery(
            self.connection, store=store, hub=self.world.hub, wake=self.wake.set
        )
        return self.delivery

    def subscribe(self, number: int) -> None:
        """As the commands do: the answer, and then what begins it, without a break."""
        delivery = self.delivery or self.connect()
        command = self.client.ask(self.world.run_id, number)
        if command is not None:
            self._following = asyncio.create_task(self._follow(delivery, command))

    async def _follow(self, delivery: Delivery, command: Subscribe) -> None:
        answer, begin = await delivery.follow(self.world.record, command)
        self.client.answer(answer)
        begin()

    def unsubscribe(self) -> None:
        if self.delivery is not None:
            self.delivery.unfollow(self.world.run_id)
            self.client.owed = False

    async def drop(self) -> None:
        """The connection is gone, with everything that was on its way."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
            if not self._following.cancelled():
                self._following.result()
            self._following = None
        if self.delivery is not None:
            self.delivery.close()
            self.delivery = None
        self.client.asked, self.client.owed = None, False

    @property
    def idle(self) -> bool:
        return self.delivery is None or not (self._more or self.wake.is_set())

    @property
    def subscribed(self) -> bool:
        if self.client.asked is not None:
            return True
        return self.delivery is not None and bool(self.connection.following)

    def pump(self, *, only: int | None = None) -> None:
        """One round of the writer; the first `only` of it arrive."""
        if self.idle:
            return
        assert self.delivery is not None
        if not self._more:
            self.wake.clear()
        outbox = Outbox()
        try:
            self._more = self.delivery.pump(outbox)
        except StoreUnavailable as error:
            raise Violation(str(error)) from error
        for item in outbox.items[:only]:
            if not isinstance(item, bytes):
                self.client.control(item)
            elif not self.loses:
                self.client.take(item)
        self.loses &= not any(isinstance(item, bytes) for item in outbox.items)

    def beat(self) -> None:
        if self.delivery is not None:
            heads = self.delivery.heartbeat(AT).heads
            if self.client.beat(heads.get(self.world.run_id)):
                self.subscribe(0)

    def failure(self) -> None:
        """Raise what a subscription came to, if it came to nothing."""
        if self._following is not None and self._following.done():
            self._following.result()
            self._following = None


# --- the whole ------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How the server does it: the right way, or one that a test is to see through."""

    delivery: Callable[..., Delivery] = Delivery
    publish_first: bool = False
    lossy: bool = False
    """Whether frames are lost behind the server's back, for heartbeats to find."""


Move = tuple[str, int, int]
"""What, by which reader, and a number that means what it means there."""


class Example(NamedTuple):
    details: Sequence[Detail]
    moves: Sequence[Move]
    ring: int
    """Frames that the hub keeps of a run."""
    rings: int
    """Runs that it keeps though nobody listens."""
    page: int
    """Frames of a page, roughly."""
    live: int
    """Readers that follow already, and have everything, when the moves begin."""


class Arena:
    """A store on disk that many worlds use one after the other, each with a run of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.gates = Gates()
        self.boots = self.runs = 0
        self.hub = MemoryHub()
        self.publish_first = False
        self.store = cast(SqliteStore, None)

    async def boot(self) -> None:
        """Open the store as the next server does."""
        self.gates = Gates()
        self.store = SqliteStore(
            self.place, clock=SystemClock(), committed=self._committed, boot_id=str(self.boots),
            tick=0,
        )  # fmt: skip
        with (
            patch.object(sqlite, "aiosqlite", SimpleNamespace(connect=InlineDb)),
            patch.object(sqlite, "LogReader", InlineReader),
        ):
            await self.store.__aenter__()
        writer = self.store._writer
        writer._db = cast(Any, GatedDb(cast(InlineDb, writer._db), self))

    async def crash(self) -> None:
        """Without a last commit and without a word; what has not been committed is gone."""
        task = self.store._writer._task
        assert task is not None
        task.cancel()
        await asyncio.wait([task])
        await self.store._stack.aclose()

    async def stop(self) -> None:
        self.gates.open = True
        await self.store.__aexit__(None, None, None)

    def _committed(self, entries: Sequence[LogEntry]) -> None:
        if not self.publish_first:
            self.hub.publish(entries)


class World:
    """One example: a run, its readers, and who moves."""

    def __init__(self, arena: Arena, example: Example, way: Way) -> None:
        self.arena = arena
        self.way = way
        self.hub = arena.hub = MemoryHub()
        arena.publish_first = way.publish_first
        self.readers = [Reader(self, detail) for detail in example.details]
        self._moves, self._live = example.moves, example.live
        arena.runs += 1
        self.run_id = RunId(f"run-{arena.runs}")
        self.record = cast(RunRecord, None)
        self.ended = False
        self._log: Sequence[LogEntry] = ()
        """Of a run that has ended, as it was before its frames expired."""
        self.durable = self.texts = 0
        self._ref = cast(AttemptRef, None)
        self._appending: set[asyncio.Task[None]] = set()

    async def played(self) -> None:
        """Raises Violation."""
        await self._begin()
        try:
            for move in self._moves:
                await self._move(*move)
                await self.arena.gates.settled()
                for reader in self.readers:
                    reader.failure()
            await self._finish()
        finally:
            self.arena.gates.open = True
            for reader in self.readers:
                await reader.drop()
            await self._calm()
            if self.hub._listeners:
                raise Violation("somebody still listens")

    async def _begin(self) -> None:
        self.arena.gates.open = True
        self._ref = await running(self.arena.store, self.run_id)
        found = await self.arena.store.get(self.run_id)
        assert found is not None
        self.record = found
        self.durable = 2
        for reader in self.readers[: self._live]:
            reader.subscribe(0)
        await self._drained()
        self.arena.gates.open = False

    async def _move(self, what: str, who: int, number: int) -> None:
        reader, gates = self.readers[who % len(self.readers)], self.arena.gates
        match what:
            case "append":
                self._append(number)
            case "commit":
                gates.let(gates.commits)
            case "answer":
                gates.let(gates.reads, number)
            case "pump":
                reader.pump()
            case "subscribe":
                reader.subscribe(number)
            case "unsubscribe":
                reader.unsubscribe()
            case "drop":
                reader.pump(only=number % 4)
                await reader.drop()
            case "lose":
                reader.loses = self.way.lossy
            case "beat":
                reader.beat()
            case "end":
                await self._end(number)
            case _:
                await self._restart(lost=number if what == "cut" else 0)

    def _append(self, number: int) -> None:
        """A few frames in one write; an outline shows some of them."""
        if self.ended:
            return
        ref, frames = self._ref, list[FlowRunStepDelta | FlowRunStepNotice]()
        for place in range(1 + number % 5):
            self.texts += 1
            said = f"{self.arena.boots}.{self.texts}"
            if number >> place & 4:
                frames.append(
                    FlowRunStepNotice(
                        run_id=ref.run_id, step_id=ref.step_id, attempt=1, code="c", message=said
                    )
                )  # fmt: skip
            else:
                frames.append(
                    FlowRunStepDelta(
                        run_id=ref.run_id, step_id=ref.step_id, attempt=1, channel=Stream.TEXT,
                        offset=100 * self.texts, text=said,
                    )
                )  # fmt: skip
        task = asyncio.create_task(self.arena.store.append(ref, frames))
        self._appending.add(task)
        task.add_done_callback(self._appending.discard)

    async def _end(self, number: int) -> None:
        """The run ends, once; later on its frames are folded, and then they expire."""
        store = self.arena.store
        with self._open():
            await self._calm()
            if not self.ended:
                self.ended = True
                await end(store, self.run_id, RunStatus.FAILED)
                self._log = await whole(store, self.run_id, page=500)
            while number % 3 and await store.fold():
                pass
            if number % 3 == 2:
                await store.expire("2999-01-01T00:00:00.000Z")

    async def _restart(self, *, lost: int) -> None:
        """The server dies, with the commit under way; a power cut takes as many of the last frames,
        but none that came before a change of state."""
        for reader in self.readers:
            await reader.drop()
        await self.arena.crash()
        await self._cancel_appends()
        if lost:
            self.arena.boots += 1
            await asyncio.to_thread(self._cut, lost)
        self.hub = self.arena.hub = MemoryHub()
        await self.arena.boot()
        self.arena.gates.open = False

    def _cut(self, lost: int) -> None:
        if self.ended:
            return
        with closing(sqlite3.connect(self.arena.place / FILE)) as db, db:
            (head,) = db.execute(
                "SELECT head FROM flow_runs WHERE id = ?", (self.run_id,)
            ).fetchone()
            left = max(self.durable, head - lost)
            db.execute("DELETE FROM flow_frames WHERE run_id = ? AND seq > ?", (self.run_id, left))
            db.execute(
                "UPDATE flow_runs SET head = ?, outline_head = (SELECT max(seq) FROM flow_frames"
                " WHERE run_id = id AND outline) WHERE id = ?",
                (left, self.run_id),
            )

    async def _cancel_appends(self) -> None:
        appending = list(self._appending)
        for task in appending:
            task.cancel()
        if appending:
            await asyncio.wait(appending)

    @contextmanager
    def _open(self) -> Iterator[None]:
        """No gate holds anybody meanwhile; who waits at one goes on waiting."""
        gates = self.arena.gates
        gates.open = True
        try:
            yield
        finally:
            gates.open = False

    async def _calm(self) -> None:
        """Every write that was begun is done."""
        gates = self.arena.gates
        while self._appending or gates.commits:
            gates.let(gates.commits)
            await gates.settled()

    async def _finish(self) -> None:
        """Everybody comes back who has left, everything is let through, and nothing is missing."""
        await self._calm()
        for reader in self.readers:
            reader.loses = False
            if not reader.subscribed:
                reader.subscribe(0)
        await self._drained()
        if self.way.lossy:
            for _ in range(BEATS):
                for reader in self.readers:
                    reader.beat()
                await self._drained()
        self.arena.gates.open = True
        log = self._log or await whole(self.arena.store, self.run_id, page=500)
        found = await self.arena.store.log(self.run_id)
        assert found is not None
        for reader in self.readers:
            self._check(
                reader,
                log,
                found.outline_head if reader.client.detail is Detail.OUTLINE else found.head,
            )

    async def _drained(self) -> None:
        gates = self.arena.gates
        for _ in range(ROUNDS):
            await gates.settled()
            if not gates.reads and all(reader.idle for reader in self.readers):
                return
            while gates.reads:
                gates.let(gates.reads)
            for reader in self.readers:
                reader.pump()
                reader.failure()
        raise Violation("it never comes to rest")

    def _check(self, reader: Reader, log: Sequence[LogEntry], head: int) -> None:
        client = reader.client
        full = client.detail is Detail.FULL
        due = [(it.seq, it.data) for it in log if it.seq > client.base and (full or it.outline)]
        if client.frames != due:
            seen, wanted = [seq for seq, _ in client.frames], [seq for seq, _ in due]
            raise Violation(f"after {client.base} the log has {wanted}, the client {seen}")
        if client.owed:
            raise Violation("caught_up never came")
        assert reader.delivery is not None
        told = reader.delivery.heartbeat(AT).heads.get(self.run_id)
        if told != head and not self.way.lossy:
            raise Violation(f"the heartbeat names {told}, the head is {head}")
