"""Rule 14: what was and was not looked at, step by step."""

from collections.abc import Iterable, Iterator, Sequence

from flows.engine import FINISHED_EARLY
from flows.facts import Facts, StepFact
from flows.roster import SIGNAL_ABSENT
from protocol.plan import FlowPlan, OnFailure, PlannedStep, StepKind
from protocol.report import Coverage, StepCoverage
from protocol.states import RunStatus, StepStatus

OVER_THE_CAP = "over the cap of the band"

_ENDED_SHORT = (RunStatus.PARTIAL, RunStatus.FAILED, RunStatus.CANCELLED)


def coverage(
    plan: FlowPlan, facts: Facts, *, status: RunStatus | None, notes: Sequence[str]
) -> Coverage:
    """Return the coverage of a run at any stage.

    Every agent step is listed; a code step only when it did not deliver. It is complete when the
    run `delivered` and no file in scope was left out.
    """
    undelivered = missing(plan, facts)
    unseated = _unseated(plan)
    return Coverage(
        complete=delivered(plan, facts, status) and not _beyond(plan),
        scope=plan.scope.description,
        files_reviewed=len(_reviewed(plan, facts)),
        files_in_scope=plan.scope.total_files,
        steps=[
            _step(step, facts.steps[step.id])
            for step in plan.steps
            if step.kind is StepKind.AGENT or step in undelivered
        ],
        left_out=_left_out(plan),
        left_out_paths=plan.scope.left_out,
        omitted_roles=[
            f"{seat.role}: {seat.reason}" for seat in plan.omitted if seat.reason != SIGNAL_ABSENT
        ],
        notes=[*plan.warnings, *plan.tree.notes, *unseated, *notes],
    )


def delivered(plan: FlowPlan, facts: Facts, status: RunStatus | None) -> bool:
    """Whether every required step delivered, every other step delivered or was not called for, and
    the run did not end short of its plan."""
    return status not in _ENDED_SHORT and not missing(plan, facts) and not _unseated(plan)


def missing(plan: FlowPlan, facts: Facts) -> list[PlannedStep]:
    """Return the steps that the plan counted on and that did not deliver, in plan order."""
    return [step for step in plan.steps if _is_missing(step, facts.steps[step.id])]


def why(fact: StepFact) -> str:
    """Say in a few words why a step did not deliver."""
    return fact.reason or fact.status.value


def _is_missing(step: PlannedStep, fact: StepFact) -> bool:
    if fact.status is StepStatus.COMPLETED:
        return False
    if step.required:
        return True
    match fact.status:
        case StepStatus.SKIPPED:
            return fact.reason == FINISHED_EARLY
        case StepStatus.FAILED:
            return step.on_failure is not OnFailure.SKIP
        case _:
            return True


def _unseated(plan: FlowPlan) -> list[str]:
    """Seats of the roster for which the plan has no step. A sound plan has none."""
    seated = {step.role for step in plan.steps}
    return [
        f"no step was planned for {seat.role}" for seat in plan.roster if seat.role not in seated
    ]


def _step(step: PlannedStep, fact: StepFact) -> StepCoverage:
    return StepCoverage(
        step_id=step.id,
        role=step.role or "",
        status=fact.status.value,
        required=step.required,
        reason=fact.reason,
        reused=fact.reused,
        denied_tools=fact.denied_tools,
    )


def _reviewed(plan: FlowPlan, facts: Facts) -> set[str]:
    """The files that some agent was given and answered for."""
    return {
        path
        for step in _completed(plan.steps, facts)
        if step.output == "findings"
        for path in step.files
    }


def _completed(steps: Iterable[PlannedStep], facts: Facts) -> Iterator[PlannedStep]:
    return (step for step in steps if facts.steps[step.id].status is StepStatus.COMPLETED)


def _left_out(plan: FlowPlan) -> dict[str, int]:
    beyond = _beyond(plan)
    return plan.tree.left_out | ({OVER_THE_CAP: beyond} if beyond else {})


def _beyond(plan: FlowPlan) -> int:
    """How many files in scope the cap leaves out."""
    return max(0, plan.scope.total_files - len(plan.scope.files))
