"""The store in one SQLite file: one write connection behind the group commit, one for reads."""

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import aiosqlite

from protocol.frames import StoredFrame
from protocol.ids import RunId, StepId
from protocol.plan import FlowPlan
from protocol.resources import Project, ReportRef
from protocol.states import RunStatus, StepStatus, move_run, move_step
from server.ports import (
    AttemptRef,
    Clock,
    Fenced,
    Launched,
    LogEntry,
    NewRun,
    NotStored,
    StepChange,
    StoreUnavailable,
)
from server.stores import migrate, pages, rows
from server.stores.launching import insert_run
from server.stores.log_reader import LogReader, whole
from server.stores.reads import known
from server.stores.users import UserRows
from server.stores.writer import Tick, Writer

FILE = "podium.db"


class SqliteStore(UserRows):
    """Keeps the promises of `ports.Store` and `ports.UserStore`. Use it as an async context
    manager."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        committed: Callable[[Sequence[LogEntry]], None],
        boot_id: str,
        tick: float = 0.025,
    ) -> None:
        self._directory = directory
        self._path = directory / FILE
        self._clock = clock
        self._committed = committed
        self._boot_id = boot_id
        self._tick = tick
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            held = await asyncio.to_thread(self._prepare)
            self._stack.callback(held.close)
            db = await self._stack.enter_async_context(
                aiosqlite.connect(self._path, isolation_level=None)
            )
            await db.execute("PRAGMA synchronous=NORMAL")
            await db.execute("PRAGMA foreign_keys=ON")
            self._reader = await self._stack.enter_async_context(
                aiosqlite.connect(f"file:{self._path}?mode=ro", uri=True, isolation_level=None)
            )
            self._reader.row_factory = sqlite3.Row
            self._log_reader = LogReader(self._path)
            self._stack.push_async_callback(self._log_reader.close)
        except (sqlite3.Error, OSError) as error:
            await self._stack.aclose()
            raise StoreUnavailable(f"{self._path} cannot be used: {error}") from error
        self._writer = Writer(db, clock=self._clock, committed=self._committed, tick=self._tick)
        self._writer.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._writer.stop()
            await asyncio.to_thread(migrate.record_clean_stop, self._path)
        finally:
            await self._stack.aclose()

    @property
    def waiting(self) -> int:
        """How many writes wait for their tick."""
        return self._writer.waiting

    def _prepare(self) -> IO[str]:
        self._directory.mkdir(parents=True, exist_ok=True)
        held = migrate.lock(self._directory)
        try:
            migrate.prepare(self._path, boot_id=self._boot_id)
        except BaseException:
            held.close()
            raise
        return held

    # --- launching ------------------------------------------------------------------------------

    async def launch(self, new: NewRun) -> Launched:
        async def write(tick: Tick) -> Launched:
            earlier = await self.by_key(tick.db, new.user_id, new.key, new.body_hash)
            if earlier is not None:
                return Launched(earlier, created=False)
            await insert_run(tick, new)
            return Launched(new.run, created=True)

        return await self._writer.do(write, state=True)

    # --- steps ----------------------------------------------------------------------------------

    async def start_attempt(
        self,
        ref: AttemptRef,
        *,
        task_id: str,
        session_id: str | None,
        frames: Sequence[StoredFrame],
    ) -> AttemptRef:
        async def write(tick: Tick) -> AttemptRef:
            move_step(await _fence(tick.db, ref), StepStatus.RUNNING)
            attempt = ref.attempt + 1
            await tick.db.execute(
                "UPDATE flow_steps SET status = 'running', attempt = ?, reason = NULL,"
                " error = NULL, task_id = ?, session_id = ?, updated_at = ?"
                " WHERE run_id = ? AND step_id = ?",
                (attempt, task_id, session_id, tick.at, ref.run_id, ref.step_id),
            )
            await tick.db.execute(
                "INSERT INTO flow_attempts (run_id, step_id, attempt, task_id, session_id,"
                " started_at) VALUES (?, ?, ?, ?, ?, ?)",
                (ref.run_id, ref.step_id, attempt, task_id, session_id, tick.at),
            )
            tick.add(frames)
            return AttemptRef(ref.run_id, ref.step_id, attempt)

        return await self._writer.do(write, state=True)

    async def change_step(
        self, ref: AttemptRef, change: StepChange, frames: Sequence[StoredFrame]
    ) -> None:
        async def write(tick: Tick) -> None:
            before = await _fence(tick.db, ref)
            move_step(before, change.status)
            await tick.db.execute(
                "UPDATE flow_steps SET status = ?, reason = ?, error = ?, output = ?,"
                " retries = retries + ?, repairs = repairs + ?, crashes = crashes + ?,"
                " denied_tools = ?, updated_at = ? WHERE run_id = ? AND step_id = ?",
                (
                    change.status,
                    change.reason,
                    change.error,
                    rows.blob(change.output),
                    change.retried,
                    change.repairing,
                    change.crashed,
                    change.denied_tools,
                    tick.at,
                    ref.run_id,
                    ref.step_id,
                ),
            )
            if before is StepStatus.RUNNING:
                await _end_attempt(tick, ref, change)
            tick.add(frames)

        await self._writer.do(write, state=True)

    async def cancel_step(self, run_id: RunId, step_id: StepId) -> bool:
        async def write(tick: Tick) -> bool:
            changed = await tick.db.execute(
                "UPDATE flow_steps SET cancelling = 1, updated_at = ?"
                " WHERE run_id = ? AND step_id = ? AND status IN ('pending', 'queued', 'running')",
                (tick.at, run_id, step_id),
            )
            return changed.rowcount > 0

        return await self._writer.do(write, state=True)

    async def append(self, ref: AttemptRef, frames: Sequence[StoredFrame]) -> None:
        async def write(tick: Tick) -> None:
            if await _fence(tick.db, ref) is not StepStatus.RUNNING:
                raise Fenced(f"attempt {ref.attempt} of {ref.step_id} does not run")
            tick.add(frames)

        await self._writer.do(write, state=False)

    async def tell_waiting(self, ref: AttemptRef, frames: Sequence[StoredFrame]) -> None:
        async def write(tick: Tick) -> None:
            if await _fence(tick.db, ref) is not StepStatus.QUEUED:
                raise Fenced(f"{ref.step_id} does not wait")
            tick.add(frames)

        await self._writer.do(write, state=False)

    # --- runs -----------------------------------------------------------------------------------

    async def change_run(
        self, run_id: RunId, status: RunStatus, frames: Sequence[StoredFrame]
    ) -> bool:
        async def write(tick: Tick) -> bool:
            current = await _run_status(tick.db, run_id)
            if current.terminal or current is status:
                return False
            move_run(current, status)
            await tick.db.execute(
                "UPDATE flow_runs SET status = ?, updated_at = ? WHERE id = ?",
                (status, tick.at, run_id),
            )
            tick.add(frames)
            return True

        return await self._writer.do(write, state=True)

    async def request_finish(self, run_id: RunId, frames: Sequence[StoredFrame]) -> bool:
        async def write(tick: Tick) -> bool:
            changed = await tick.db.execute(
                "UPDATE flow_runs SET finishing = 1, updated_at = ?"
                " WHERE id = ? AND finishing = 0 AND status IN ('queued', 'running')",
                (tick.at, run_id),
            )
            if changed.rowcount == 0:
                return False
            tick.add(frames)
            return True

        return await self._writer.do(write, state=True)

    async def finish_run(
        self,
        run_id: RunId,
        status: RunStatus,
        *,
        report: ReportRef | None,
        report_json: bytes | None,
        error: str | None,
        frames: Sequence[StoredFrame],
    ) -> bool:
        async def write(tick: Tick) -> bool:
            current = await _run_status(tick.db, run_id)
            if current.terminal:
                return False
            move_run(current, status)
            await tick.db.execute(
                "UPDATE flow_runs SET status = ?, report = ?, error = ?, updated_at = ?"
                " WHERE id = ?",
                (status, rows.blob(report), error, tick.at, run_id),
            )
            if report_json is not None:
                await tick.db.execute(
                    "INSERT OR REPLACE INTO flow_reports VALUES (?, ?)", (run_id, report_json)
                )
            tick.add(frames)
            return True

        return await self._writer.do(write, state=True)

    # --- folding and expiry ---------------------------------------------------------------------

    async def fold(self) -> bool:
        """Fold the frames of one ended run into compressed pages of the original bytes; False
        when there is none left to fold."""
        row = await self.one(
            "SELECT id FROM flow_runs WHERE folded = 0"
            " AND status NOT IN ('queued', 'running', 'cancelling') ORDER BY number LIMIT 1"
        )
        if row is None:
            return False
        run_id = RunId(row["id"])
        folded = await self._log_reader.run(lambda db: list(pages.fold(whole(db, run_id))))

        async def write(tick: Tick) -> None:
            await tick.db.executemany(
                "INSERT INTO flow_frame_pages VALUES (?, ?, ?, ?)",
                [(run_id, page.first, page.last, page.data) for page in folded],
            )
            await tick.db.execute("DELETE FROM flow_frames WHERE run_id = ?", (run_id,))
            await tick.db.execute("UPDATE flow_runs SET folded = 1 WHERE id = ?", (run_id,))

        await self._writer.do(write, state=True)
        return True

    async def expire(self, before: str) -> int:
        """Delete the folded frames of runs that ended before a time; returns how many runs."""
        found = await self.all_rows(
            "SELECT id FROM flow_runs WHERE folded = 1 AND floor < head AND updated_at < ?", before
        )

        async def write(tick: Tick) -> None:
            for row in found:
                await tick.db.execute("DELETE FROM flow_frame_pages WHERE run_id = ?", (row["id"],))
                await tick.db.execute(
                    "UPDATE flow_runs SET floor = head WHERE id = ?", (row["id"],)
                )

        if found:
            await self._writer.do(write, state=True)
        return len(found)

    # --- projects and plans ---------------------------------------------------------------------

    async def add_project(self, path: Path, name: str) -> Project:
        async def write(tick: Tick) -> None:
            await tick.db.execute(
                "INSERT INTO projects VALUES (?, ?, ?, ?) ON CONFLICT (path) DO NOTHING",
                (str(uuid.uuid4()), str(path), name, tick.at),
            )

        await self._writer.do(write, state=True)
        row = await self.one("SELECT * FROM projects WHERE path = ?", str(path))
        return rows.project(known(row, RunId("")))

    async def save_plan(self, plan: FlowPlan, patches: Mapping[str, str]) -> None:
        async def write(tick: Tick) -> None:
            await tick.db.execute(
                "INSERT OR REPLACE INTO flow_plans VALUES (?, ?, ?, ?)",
                (plan.plan_id, rows.packed(plan), rows.packed(patches), tick.at),
            )

        await self._writer.do(write, state=True)


async def _fence(db: aiosqlite.Connection, ref: AttemptRef) -> StepStatus:
    """The step's status; raises Fenced unless `ref` names its current attempt."""
    row = await (
        await db.execute(
            "SELECT status, attempt FROM flow_steps WHERE run_id = ? AND step_id = ?",
            (ref.run_id, ref.step_id),
        )
    ).fetchone()
    if row is None:
        raise NotStored(f"no step {ref.step_id} of run {ref.run_id}")
    if row[1] != ref.attempt:
        raise Fenced(f"{ref.step_id} is at attempt {row[1]}, not {ref.attempt}")
    return StepStatus(row[0])


async def _end_attempt(tick: Tick, ref: AttemptRef, change: StepChange) -> None:
    await tick.db.execute(
        "UPDATE flow_attempts SET ended_at = ?, reason = ?, exit_code = ?, usage = ?, receipt = ?"
        " WHERE run_id = ? AND step_id = ? AND attempt = ?",
        (
            tick.at,
            change.reason,
            change.exit_code,
            rows.blob(change.usage),
            rows.blob(change.receipt),
            ref.run_id,
            ref.step_id,
            ref.attempt,
        ),
    )


async def _run_status(db: aiosqlite.Connection, run_id: RunId) -> RunStatus:
    row = await (
        await db.execute("SELECT status FROM flow_runs WHERE id = ?", (run_id,))
    ).fetchone()
    if row is None:
        raise NotStored(f"no run {run_id}")
    return RunStatus(row[0])
