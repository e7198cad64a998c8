"""Rows to Structs and back. Columns hold JSON where the wire holds objects."""

import sqlite3
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from flows.facts import StepFact
from protocol.codec import encode
from protocol.commands import Band
from protocol.ids import ProjectId, RunId, StepId, UserId
from protocol.plan import FlowPlan, StepKind
from protocol.resources import IndexRow, Project, Receipt, ReportRef, Run, Step, Usage
from protocol.states import RunStatus, StepStatus
from server.ports import AttemptRecord, RunRecord

decode = msgspec.json.decode

RUN_COLUMNS = (
    "id, project_id, flow_name, band, model, status, input, report, error, created_at, updated_at"
)

STEP_COUNTS = (
    "(SELECT count(*) FROM flow_steps WHERE run_id = flow_runs.id) AS steps_total,"
    " (SELECT count(*) FROM flow_steps WHERE run_id = flow_runs.id"
    " AND status NOT IN ('pending', 'queued', 'running')) AS steps_done"
)
"""Beside the columns of a run. A step is done when it has ended, however it did."""


def run(row: sqlite3.Row) -> Run:
    return Run(
        id=RunId(row["id"]),
        project_id=ProjectId(row["project_id"]),
        flow_name=row["flow_name"],
        band=Band(row["band"]),
        model=row["model"],
        status=RunStatus(row["status"]),
        input=decode(row["input"]),
        report=decode(row["report"], type=ReportRef) if row["report"] else None,
        error=row["error"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def index_row(row: sqlite3.Row) -> IndexRow:
    return IndexRow(run=run(row), steps_done=row["steps_done"], steps_total=row["steps_total"])


def run_record(row: sqlite3.Row) -> RunRecord:
    return RunRecord(
        run=run(row),
        user_id=UserId(row["user_id"]),
        command=row["command"],
        plan=plan(row["plan"]),
        finishing=bool(row["finishing"]),
        parent_run_id=row["parent_run_id"],
    )


def step(row: sqlite3.Row) -> Step:
    return Step(
        id=row["id"],
        run_id=RunId(row["run_id"]),
        step_id=StepId(row["step_id"]),
        kind=StepKind(row["kind"]),
        agent=row["agent"],
        status=StepStatus(row["status"]),
        task_id=row["task_id"],
        chat_id=row["id"],
        input=decode(row["input"]),
        output=optional(row["output"]),
        error=row["error"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        session_id=row["session_id"],
    )


def fact(row: sqlite3.Row) -> StepFact:
    return StepFact(
        status=StepStatus(row["status"]),
        attempt=row["attempt"],
        retries=row["retries"],
        crashes=row["crashes"],
        repairs=row["repairs"],
        reason=row["reason"],
        output=optional(row["output"]),
        reused=bool(row["reused"]),
        cancelling=bool(row["cancelling"]),
        denied_tools=row["denied_tools"],
    )


def attempt(row: sqlite3.Row) -> AttemptRecord:
    return AttemptRecord(
        step_id=StepId(row["step_id"]),
        attempt=row["attempt"],
        task_id=row["task_id"],
        session_id=row["session_id"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        reason=row["reason"],
        exit_code=row["exit_code"],
        usage=decode(row["usage"], type=Usage) if row["usage"] else None,
        receipt=decode(row["receipt"], type=Receipt) if row["receipt"] else None,
    )


def project(row: sqlite3.Row) -> Project:
    return Project(
        id=ProjectId(row["id"]), path=row["path"], name=row["name"], created_at=row["created_at"]
    )


def plan(blob: bytes) -> FlowPlan:
    return decode(zlib.decompress(blob), type=FlowPlan)


def patches(blob: bytes) -> dict[str, str]:
    return decode(zlib.decompress(blob), type=dict[str, str])


def packed(value: FlowPlan | Mapping[str, str]) -> bytes:
    return zlib.compress(encode(value))


def optional(blob: bytes | None) -> Any:
    return None if blob is None else decode(blob)


def blob(value: object) -> bytes | None:
    return None if value is None else encode(value)
