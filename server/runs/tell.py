"""The frames that tell of a change: values in, frames out."""

from collections.abc import Sequence

import msgspec

from flows.facts import Facts
from flows.report.meta import is_stale, read_only_of
from protocol.frames import (
    FlowRunFinding,
    FlowRunFinished,
    FlowRunReport,
    FlowRunStatus,
    FlowRunStepNotice,
    FlowRunStepReceipt,
    FlowRunStepStatus,
    StoredFrame,
)
from protocol.ids import RunId
from protocol.plan import PlannedStep
from protocol.report import Finding, Report
from protocol.resources import Limit, Queue, ReportRef, Totals, Usage
from protocol.states import RunStatus, StepStatus
from server.ports import AgentResult, AttemptRecord, AttemptRef


def run_status(run_id: RunId, status: RunStatus, *, reason: str | None = None) -> list[StoredFrame]:
    return [FlowRunStatus(run_id=run_id, status=status, reason=reason)]


def step_status(
    ref: AttemptRef,
    step: PlannedStep,
    status: StepStatus,
    *,
    reason: str | None = None,
    message: str | None = None,
    session_id: str | None = None,
) -> list[StoredFrame]:
    return [
        FlowRunStepStatus(
            run_id=ref.run_id,
            step_id=ref.step_id,
            attempt=ref.attempt,
            status=status,
            agent=step.role,
            reason=reason,
            message=message,
            session_id=session_id,
        )
    ]


def step_queued(ref: AttemptRef, step: PlannedStep, queue: Queue | None) -> list[StoredFrame]:
    """A step that is in line; `queue` is None when nothing holds it."""
    return [
        FlowRunStepStatus(
            run_id=ref.run_id,
            step_id=ref.step_id,
            attempt=ref.attempt,
            status=StepStatus.QUEUED,
            agent=step.role,
            reason=queue.limit if queue else None,
            message=in_line(queue) if queue else None,
            queue=queue,
        )
    ]


def waiting(ref: AttemptRef, queue: Queue) -> list[StoredFrame]:
    """A queued step that has passed one limit and is held by the next."""
    return [
        FlowRunStepNotice(
            run_id=ref.run_id,
            step_id=ref.step_id,
            attempt=ref.attempt,
            code=queue.limit.value,
            message=in_line(queue),
            data=msgspec.to_builtins(queue),
        )
    ]


def in_line(queue: Queue) -> str:
    why = {
        Limit.RUN_PARALLEL: "the run has as many agents at work as its band allows",
        Limit.ENDPOINT_SLOTS: "it serves as many agents as it can",
        Limit.HOST_MEMORY: "this machine has no memory for another agent",
    }
    return f"number {queue.place} in line for {queue.host}: {why[queue.limit]}"


def attempt_end(
    ref: AttemptRef,
    step: PlannedStep,
    status: StepStatus,
    *,
    result: AgentResult | None,
    findings: Sequence[Finding] = (),
    reason: str | None = None,
    message: str | None = None,
) -> list[StoredFrame]:
    """An attempt's receipt, its findings, and the status that it leaves the step in."""
    frames: list[StoredFrame] = []
    if result is not None and result.receipt is not None:
        frames.append(
            FlowRunStepReceipt(
                run_id=ref.run_id,
                step_id=ref.step_id,
                attempt=ref.attempt,
                receipt=result.receipt,
            )
        )
    frames += [
        FlowRunFinding(run_id=ref.run_id, step_id=ref.step_id, attempt=ref.attempt, finding=finding)
        for finding in findings
    ]
    frames.append(
        FlowRunStepStatus(
            run_id=ref.run_id,
            step_id=ref.step_id,
            attempt=ref.attempt,
            status=status,
            agent=step.role,
            reason=reason,
            message=message,
            exit_code=result.exit_code if result else None,
            usage=result.usage if result else None,
        )
    )
    return frames


def run_end(
    run_id: RunId,
    status: RunStatus,
    *,
    report: Report,
    ref: ReportRef,
    totals: Totals,
    reason: str | None,
) -> list[StoredFrame]:
    """The report and the end: the last frames of a run."""
    told = read_only_of(report)
    return [
        FlowRunReport(
            run_id=run_id,
            revision=ref.revision,
            complete=ref.complete,
            coverage=report.coverage,
            headline=ref.headline,
            counts=ref.counts,
            summary_md=ref.summary_md,
            url=ref.url,
            read_only=told.line if told else None,
            stale=is_stale(report),
        ),
        FlowRunStatus(run_id=run_id, status=status, reason=reason),
        FlowRunFinished(run_id=run_id, status=status, totals=totals, reason=reason),
    ]


def totals(
    facts: Facts, attempts: Sequence[AttemptRecord], report: Report, *, seconds: float
) -> Totals:
    """What a run came to."""
    statuses = [fact.status for fact in facts.steps.values()]
    used = [attempt.usage for attempt in attempts if attempt.usage is not None]
    return Totals(
        steps=len(statuses),
        completed=statuses.count(StepStatus.COMPLETED),
        failed=statuses.count(StepStatus.FAILED),
        skipped=statuses.count(StepStatus.SKIPPED),
        cancelled=statuses.count(StepStatus.CANCELLED),
        attempts=len(attempts),
        usage=Usage(
            input_tokens=sum(usage.input_tokens for usage in used),
            output_tokens=sum(usage.output_tokens for usage in used),
            cached_tokens=sum(usage.cached_tokens for usage in used),
            requests=sum(usage.requests for usage in used),
        ),
        seconds=round(seconds, 3),
        findings=sum(report.counts.values()),
        citations_verified=report.citations.verified
        + report.citations.moved
        + report.citations.ambiguous,
        citations_total=report.citations.total,
    )
