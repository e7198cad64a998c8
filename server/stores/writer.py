"""Group commit: one task owns the one write connection and commits what came in a tick.

The tick is the only clock of the log: it merges text deltas, assigns `seq` and `at`, and hands the
committed frames to the hub before any caller hears that its write is done.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import aiosqlite
import msgspec

from protocol.codec import encode_frame
from protocol.frames import FULL_ONLY, FlowRunStepDelta, StoredFrame
from protocol.ids import RunId, Seq
from protocol.states import IllegalMove
from server.logs import logger
from server.ports import Clock, LogEntry, StoreError, StoreUnavailable
from server.world import rfc3339

log = logger(__name__)

T = TypeVar("T")
MAX_WAITING = 1_024
MAX_TICK = 0.05
DELTA_BYTES = 4 * 1024
STOP_SECONDS = 10.0


class Tick:
    """One transaction under way: its connection, its time, and the frames it will commit."""

    def __init__(self, db: aiosqlite.Connection, *, at: str) -> None:
        self.db = db
        self.at = at
        self._frames: dict[RunId, list[StoredFrame]] = {}

    def add(self, frames: Sequence[StoredFrame]) -> None:
        """Append frames to their runs' logs; a delta joins the step's last delta if it follows."""
        for frame in frames:
            pending = self._frames.setdefault(frame.run_id, [])
            if isinstance(frame, FlowRunStepDelta) and _join(pending, frame):
                continue
            pending.append(frame)

    async def write(self) -> list[LogEntry]:
        """Give every frame its seq and write it."""
        entries: list[LogEntry] = []
        for run_id, frames in self._frames.items():
            entries += await self._write_run(run_id, frames)
        return entries

    async def _write_run(self, run_id: RunId, frames: list[StoredFrame]) -> list[LogEntry]:
        row = await (
            await self.db.execute(
                "SELECT head, outline_head FROM flow_runs WHERE id = ?", (run_id,)
            )
        ).fetchone()
        assert row is not None
        head, outline_head = row
        entries = [
            _entry(frame, Seq(head + place), self.at) for place, frame in enumerate(frames, 1)
        ]
        shown = [entry.seq for entry in entries if entry.outline]
        await self.db.executemany(
            "INSERT INTO flow_frames VALUES (?, ?, ?, ?)",
            [(run_id, entry.seq, entry.outline, entry.data) for entry in entries],
        )
        await self.db.execute(
            "UPDATE flow_runs SET head = ?, outline_head = ? WHERE id = ?",
            (head + len(entries), shown[-1] if shown else outline_head, run_id),
        )
        return entries


Write = Callable[[Tick], Awaitable[Any]]


class _Waiting(NamedTuple):
    write: Write
    state: bool
    """Whether it changes rows: then the tick's commit must survive a power cut."""
    done: "asyncio.Future[Any]"


class Writer:
    """Takes writes in order; `do` returns when the write is durable and published."""

    def __init__(
        self,
        db: aiosqlite.Connection,
        *,
        clock: Clock,
        committed: Callable[[Sequence[LogEntry]], None],
        tick: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._committed = committed
        self._tick = tick
        self._waiting: asyncio.Queue[_Waiting | None] = asyncio.Queue(MAX_WAITING)
        self._urgent = asyncio.Event()
        self._full_sync = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="store writer")

    @property
    def waiting(self) -> int:
        return self._waiting.qsize()

    async def stop(self) -> None:
        """Commit what waits, then end."""
        if self._task is not None:
            await self._waiting.put(None)
            self._urgent.set()
            await asyncio.wait_for(self._task, STOP_SECONDS)

    async def do(self, write: Callable[[Tick], Awaitable[T]], *, state: bool) -> T:
        """Run a write in the next tick. A caller that is cancelled meanwhile does not know
        whether it was done. A write that raises a StoreError or IllegalMove wrote nothing."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        await self._waiting.put(_Waiting(write, state, done))
        if state:
            self._urgent.set()
        return await done

    async def _run(self) -> None:
        stopping = False
        while not stopping:
            first = await self._waiting.get()
            began = self._clock.monotonic()
            self._urgent.clear()
            batch = [first]
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            stopping = None in batch
            await self._commit([one for one in batch if one is not None])
            spent = self._clock.monotonic() - began
            pause = min(MAX_TICK, max(self._tick, 2 * spent)) - spent
            if self._tick and pause > 0 and not stopping:
                await self._gather(pause)

    async def _gather(self, pause: float) -> None:
        """Let writes gather for the rest of the tick; a change of state ends it at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._urgent.wait()

    async def _commit(self, batch: list[_Waiting]) -> None:
        answers: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        try:
            await self._sync(full=any(one.state for one in batch))
            await self._db.execute("BEGIN IMMEDIATE")
            tick = Tick(self._db, at=rfc3339(self._clock.now()))
            for one in batch:
                answers.append((one.done, *await _try(one.write, tick)))
            entries = await tick.write()
            await self._db.execute("COMMIT")
        except Exception as error:
            await self._fail(batch, error)
            return
        if entries:
            self._committed(entries)
        for done, result, refused in answers:
            if done.cancelled():
                continue
            if refused is not None:
                done.set_exception(refused)
            else:
                done.set_result(result)

    async def _sync(self, *, full: bool) -> None:
        """A tick with a state row waits for the disk; its fsync covers the ticks before it."""
        if full != self._full_sync:
            await self._db.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._full_sync = full

    async def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        """Nothing of the tick was written; every caller learns so, and the next tick tries anew."""
        log.error("store_failed", error=repr(error))
        # Only what a disk does passes by itself; a defect of ours must not be tried for ever.
        passing = isinstance(error, sqlite3.Error | OSError)
        kind = StoreUnavailable if passing else StoreError
        with suppress(sqlite3.Error, ValueError):
            await self._db.execute("ROLLBACK")
        for one in batch:
            if not one.done.cancelled():
                one.done.set_exception(kind(f"the store failed: {error}"))


async def _try(write: Write, tick: Tick) -> tuple[Any, BaseException | None]:
    """A refusal concerns its own caller only; everything else fails the tick."""
    try:
        return await write(tick), None
    except (StoreError, IllegalMove) as refusal:
        # Every write checks before it writes, so a refused one has written nothing.
        return None, refusal


def _join(pending: list[StoredFrame], frame: FlowRunStepDelta) -> bool:
    """Extend the step's last frame by this delta when it is the same text going on."""
    for place in range(len(pending) - 1, -1, -1):
        last = pending[place]
        if getattr(last, "step_id", None) != frame.step_id:
            continue
        if not (
            isinstance(last, FlowRunStepDelta)
            and (last.attempt, last.channel) == (frame.attempt, frame.channel)
            and last.offset + len(last.text) == frame.offset
            and len((last.text + frame.text).encode("utf-8", "replace")) <= DELTA_BYTES
        ):
            return False
        pending[place] = msgspec.structs.replace(last, text=last.text + frame.text)
        return True
    return False


def _entry(frame: StoredFrame, seq: Seq, at: str) -> LogEntry:
    stamped = msgspec.structs.replace(frame, seq=seq, at=at)
    return LogEntry(frame.run_id, seq, encode_frame(stamped), not isinstance(frame, FULL_ONLY))
