"""The store in one SQLite file: one write connection behind the group commit, one for reads."""

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import aiosqlite

from flows.facts import StepFact
from protocol.frames import (
    FlowRunCreated,
    FlowRunPlanned,
    FlowRunStepStatus,
    StoredFrame,
)
from protocol.ids import RunId, StepId
from protocol.plan import FlowPlan, PlannedStep
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
from server.stores.log_reader import LogReader, whole
from server.stores.reads import known, open_to_user
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
            await _check_open(tick.db, new)
            await tick.db.execute(
                "INSERT INTO flow_runs (id, project_id, user_id, launch_key, body_hash, command,"
                " parent_run_id, flow_name, band, model, status, input, plan, patches, created_at,"
                " updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                _run_values(new),
            )
            await tick.db.execute("INSERT INTO flow_generations VALUES (?, 1, 0)", (new.run.id,))
            await tick.db.executemany(
                "INSERT INTO flow_steps (id, run_id, step_id, kind, agent, status, reused, input,"
                " output, denied_tools, created_at, updated_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_step_values(new, step, tick.at) for step in new.plan.steps],
            )
            tick.add(_first_frames(new))
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


async def _check_open(db: aiosqlite.Connection, new: NewRun) -> None:
    """Raise NotStored when the project is not open to the user: in the transaction of the launch,
    so that none slips through while a membership is being withdrawn."""
    row = await (
        await db.execute(
            f"SELECT {open_to_user('?')}",
            (new.user_id, new.run.project_id),
        )
    ).fetchone()
    if row is None or not row[0]:
        raise NotStored(f"no project {new.run.project_id} of {new.user_id}")


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


def _run_values(new: NewRun) -> tuple[Any, ...]:
    run = new.run
    return (
        run.id,
        run.project_id,
        new.user_id,
        new.key,
        new.body_hash,
        new.command,
        new.parent_run_id,
        run.flow_name,
        run.band,
        run.model,
        run.status,
        rows.blob(run.input),
        rows.packed(new.plan),
        rows.packed(new.patches),
        run.created_at,
        run.updated_at,
    )


def _step_values(new: NewRun, step: PlannedStep, at: str) -> tuple[Any, ...]:
    fact = new.facts.steps[step.id]
    return (
        str(uuid.uuid4()),
        new.run.id,
        step.id,
        step.kind,
        step.role,
        fact.status,
        fact.reused,
        rows.blob({"files": step.files, "needs": step.needs}),
        rows.blob(fact.output),
        fact.denied_tools,
        at,
        at,
    )


def _first_frames(new: NewRun) -> list[StoredFrame]:
    """What a run's log begins with."""
    run_id = new.run.id
    frames: list[StoredFrame] = [
        FlowRunCreated(
            run_id=run_id, run=new.run, command=new.command, parent_run_id=new.parent_run_id
        ),
        FlowRunPlanned(run_id=run_id, plan=new.plan),
    ]
    for step in new.plan.steps:
        fact: StepFact = new.facts.steps[step.id]
        if fact.reused:
            frames.append(
                FlowRunStepStatus(
                    run_id=run_id,
                    step_id=step.id,
                    attempt=0,
                    status=fact.status,
                    agent=step.role,
                    reused=True,
                )
            )
    return frames
