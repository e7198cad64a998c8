"""The reading half of the SQLite store, on a connection of its own that cannot write."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

import aiosqlite

from flows.facts import Facts
from protocol.ids import Gen, PlanId, ProjectId, RunId, Seq, StepId, UserId
from protocol.plan import FlowPlan
from protocol.resources import IndexRow, Project, Run, Step
from protocol.states import RunStatus
from server.ports import (
    AttemptRecord,
    KeyConflict,
    LogEntry,
    LogHead,
    NotStored,
    Page,
    RunRecord,
    StoreUnavailable,
)
from server.stores import log_reader, rows
from server.stores.log_reader import LogReader

T = TypeVar("T")


def open_to_user(project: str) -> str:
    """The one condition of who may see what belongs to a project, in SQL: `project` is the column
    that names it, the parameter is the user."""
    return (
        "EXISTS (SELECT 1 FROM users WHERE users.id = ? AND users.revoked_at IS NULL"  # noqa: S608
        " AND (users.kind = 'operator' OR EXISTS (SELECT 1 FROM memberships WHERE"
        f" memberships.user_id = users.id AND memberships.project_id = {project})))"
    )


OPEN = open_to_user("flow_runs.project_id")


class Reads:
    """What `ports.Store` promises of reading. Every method raises StoreUnavailable when the disk
    fails."""

    _reader: aiosqlite.Connection
    _log_reader: LogReader

    async def launched(self, user_id: UserId, key: str, body_hash: str) -> Run | None:
        return await self.by_key(self._reader, user_id, key, body_hash)

    async def by_key(
        self, db: aiosqlite.Connection, user_id: UserId, key: str | None, body_hash: str
    ) -> Run | None:
        """The run of an idempotency key; raises KeyConflict on another body."""
        if key is None:
            return None
        found = await (
            await db.execute(
                "SELECT id, body_hash FROM flow_runs WHERE user_id = ? AND launch_key = ?",
                (user_id, key),
            )
        ).fetchone()
        if found is None:
            return None
        if found[1] != body_hash:
            raise KeyConflict(key)
        cursor = await db.execute(
            f"SELECT {rows.RUN_COLUMNS} FROM flow_runs WHERE id = ?",  # noqa: S608
            (found[0],),
        )
        cursor.row_factory = sqlite3.Row
        row = await cursor.fetchone()
        return rows.run(known(row, RunId(found[0])))

    async def get(self, run_id: RunId) -> RunRecord | None:
        row = await self.one("SELECT * FROM flow_runs WHERE id = ?", run_id)
        return rows.run_record(row) if row else None

    async def visible(self, user_id: UserId, run_id: RunId) -> RunRecord | None:
        row = await self.one(
            f"SELECT * FROM flow_runs WHERE id = ? AND user_id = ? AND {OPEN}",  # noqa: S608
            run_id,
            user_id,
            user_id,
        )
        return rows.run_record(row) if row else None

    async def runs(
        self,
        user_id: UserId,
        *,
        project_id: ProjectId | None,
        before: RunId | None,
        limit: int,
    ) -> list[Run]:
        wanted, values = _visible(user_id, project_id, before)
        found = await self.all_rows(
            f"SELECT {rows.RUN_COLUMNS} FROM flow_runs"  # noqa: S608 - fixed words only
            f" WHERE {' AND '.join(wanted)} ORDER BY number DESC LIMIT ?",
            *values,
            limit,
        )
        return [rows.run(row) for row in found]

    async def index(
        self,
        user_id: UserId,
        *,
        project_id: ProjectId | None,
        before: RunId | None = None,
        only: Sequence[RunId] | None = None,
        limit: int,
    ) -> list[IndexRow]:
        wanted, values = _visible(user_id, project_id, before)
        if only is not None:
            wanted.append(f"id IN ({', '.join('?' * len(only))})")
            values += only
        found = await self.all_rows(
            f"SELECT {rows.RUN_COLUMNS}, {rows.STEP_COUNTS} FROM flow_runs"  # noqa: S608 - fixed words only
            f" WHERE {' AND '.join(wanted)} ORDER BY number DESC LIMIT ?",
            *values,
            limit,
        )
        return [rows.index_row(row) for row in found]

    async def steps(self, run_id: RunId) -> list[Step]:
        found = await self.all_rows(
            "SELECT * FROM flow_steps WHERE run_id = ? ORDER BY number", run_id
        )
        return [rows.step(row) for row in found]

    async def facts(self, run_id: RunId) -> Facts:
        record = known(
            await self.one("SELECT status, finishing FROM flow_runs WHERE id = ?", run_id), run_id
        )
        found = await self.all_rows(
            "SELECT * FROM flow_steps WHERE run_id = ? ORDER BY number", run_id
        )
        return Facts(
            steps={StepId(row["step_id"]): rows.fact(row) for row in found},
            cancelling=record["status"] == RunStatus.CANCELLING,
            finishing=bool(record["finishing"]),
        )

    async def patches(self, run_id: RunId) -> dict[str, str]:
        row = await self.one("SELECT patches FROM flow_runs WHERE id = ?", run_id)
        return rows.patches(known(row, run_id)["patches"])

    async def attempts(self, run_id: RunId) -> list[AttemptRecord]:
        found = await self.all_rows(
            "SELECT * FROM flow_attempts WHERE run_id = ? ORDER BY started_at, step_id, attempt",
            run_id,
        )
        return [rows.attempt(row) for row in found]

    async def unfinished(self) -> list[RunId]:
        found = await self.all_rows(
            "SELECT id FROM flow_runs WHERE status IN ('queued', 'running', 'cancelling')"
            " ORDER BY number"
        )
        return [RunId(row["id"]) for row in found]

    async def report(self, run_id: RunId) -> bytes | None:
        row = await self.one("SELECT report FROM flow_reports WHERE run_id = ?", run_id)
        return row["report"] if row else None

    async def log(self, run_id: RunId) -> LogHead | None:
        row = await self.one(
            "SELECT gen, head, outline_head, floor FROM flow_runs WHERE id = ?", run_id
        )
        if row is None:
            return None
        bases = await self.all_rows(
            "SELECT gen, base FROM flow_generations WHERE run_id = ? ORDER BY gen", run_id
        )
        return LogHead(
            gen=Gen(row["gen"]),
            head=Seq(row["head"]),
            outline_head=Seq(row["outline_head"]),
            floor=Seq(row["floor"]),
            bases=[(Gen(base["gen"]), Seq(base["base"])) for base in bases],
        )

    async def read(
        self, run_id: RunId, *, after: Seq, limit: int, outline: bool = False
    ) -> list[LogEntry]:
        def work(db: sqlite3.Connection) -> list[LogEntry]:
            return log_reader.page(db, run_id, after=after, outline=outline, frames=limit)[0]

        return await self._log_reader.run(work)

    async def page(
        self, run_id: RunId, *, after: Seq, outline: bool, make: Callable[[Page], T]
    ) -> T:
        def work(db: sqlite3.Connection) -> T:
            entries, through = log_reader.page(
                db, run_id, after=after, outline=outline, scan=log_reader.SCAN_FRAMES
            )
            return make(Page(entries, through))

        return await self._log_reader.run(work)

    async def projects(self, user_id: UserId) -> list[Project]:
        found = await self.all_rows(
            f"SELECT * FROM projects WHERE {open_to_user('projects.id')}"  # noqa: S608
            " ORDER BY created_at, id",
            user_id,
        )
        return [rows.project(row) for row in found]

    async def open_project(self, user_id: UserId, project_id: ProjectId) -> Project | None:
        row = await self.one(
            f"SELECT * FROM projects WHERE id = ? AND {open_to_user('projects.id')}",  # noqa: S608
            project_id,
            user_id,
        )
        return rows.project(row) if row else None

    async def project(self, project_id: ProjectId) -> Project | None:
        row = await self.one("SELECT * FROM projects WHERE id = ?", project_id)
        return rows.project(row) if row else None

    async def plan(self, plan_id: PlanId) -> tuple[FlowPlan, dict[str, str]] | None:
        row = await self.one("SELECT plan, patches FROM flow_plans WHERE id = ?", plan_id)
        return (rows.plan(row["plan"]), rows.patches(row["patches"])) if row else None

    async def one(self, sql: str, *values: object) -> sqlite3.Row | None:
        found = await self.all_rows(sql, *values)
        return found[0] if found else None

    async def all_rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        try:
            return list(await self._reader.execute_fetchall(sql, values))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store failed: {error}") from error


def _visible(
    user_id: UserId, project_id: ProjectId | None, before: RunId | None
) -> tuple[list[str], list[object]]:
    """The conditions of a list of runs, and their values: the user's own, in projects that are open
    to the user."""
    wanted: list[str] = ["user_id = ?", OPEN]
    values: list[object] = [user_id, user_id]
    if project_id is not None:
        wanted.append("project_id = ?")
        values.append(project_id)
    if before is not None:
        wanted.append("number < (SELECT number FROM flow_runs WHERE id = ?)")
        values.append(before)
    return wanted, values


def known(row: sqlite3.Row | None, run_id: RunId) -> sqlite3.Row:
    if row is None:
        raise NotStored(f"no run {run_id}")
    return row
