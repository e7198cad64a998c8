"""The end of a run: its report, its totals and its last frames, in one transaction."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from flows.facts import Facts
from flows.report import build, markdown, proof
from flows.report.proof import Attempted
from protocol.plan import StepKind
from protocol.report import Report
from protocol.resources import ReportRef
from protocol.states import RunStatus
from server.ports import AttemptRecord, RunRecord
from server.runs import tell
from server.runs.rooms import Rooms
from server.world import rfc3339


async def close_run(
    rooms: Rooms, record: RunRecord, facts: Facts, *, status: RunStatus, reason: str | None
) -> bool:
    """Write the report and the terminal status; False when another writer was first.

    A cancelled or failed run gets a report too: it says what was not covered.
    """
    run_id = record.run.id
    attempts = await rooms.store.attempts(run_id)
    meta = _meta(record, facts, attempts, ended_at=rfc3339(rooms.clock.now()))
    flow = rooms.catalogue.get(record.plan.flow)
    report = await asyncio.to_thread(
        build.build, flow, record.plan, facts, meta=meta, status=status
    )
    ref = _reference(record, report)
    seconds = (rooms.clock.now() - datetime.fromisoformat(record.run.created_at)).total_seconds()
    frames = tell.run_end(
        run_id,
        status,
        report=report,
        ref=ref,
        totals=tell.totals(facts, attempts, report, seconds=seconds),
        reason=reason,
    )
    first = await rooms.record(
        lambda: rooms.store.finish_run(
            run_id,
            status,
            report=ref,
            report_json=build.to_json(report),
            error=reason if status is RunStatus.FAILED else None,
            frames=frames,
        )
    )
    rooms.ended[status] += first
    return first


def _reference(record: RunRecord, report: Report) -> ReportRef:
    return ReportRef(
        revision=1,
        complete=report.complete,
        headline=report.headline,
        counts=report.counts,
        summary_md=markdown.summary(report),
        url=f"/api/runs/{record.run.id}/report.md",
    )


def _meta(
    record: RunRecord, facts: Facts, attempts: Sequence[AttemptRecord], *, ended_at: str
) -> dict[str, Any]:
    """What differs between two runs that say the same."""
    agents = proof.attempts_of(
        record.plan,
        (
            Attempted(step_id=it.step_id, attempt=it.attempt, receipt=it.receipt, reason=it.reason)
            for it in attempts
        ),
    )
    reused = {step_id for step_id, fact in facts.steps.items() if fact.reused}
    agent_steps = {step.id for step in record.plan.steps if step.kind is StepKind.AGENT}
    told = proof.read_only(agents, reused=len(reused & agent_steps))
    return {
        "run_id": record.run.id,
        "parent_run_id": record.parent_run_id,
        "created_at": record.run.created_at,
        "ended_at": ended_at,
        "read_only": msgspec.to_builtins(told),
        "stale": proof.stale(agents),
        "attempts": [msgspec.to_builtins(attempt) for attempt in attempts],
    }
