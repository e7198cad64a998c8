"""The life of a run as a pure function: facts and an event make new facts, facts make actions.

The shell performs the actions and reports what became of them as events. It keeps nothing of its
own: storing the facts after each event and calling `decide` on them again IS the resume.
"""

from collections.abc import Iterator, Mapping
from typing import Any, assert_never

import msgspec
from msgspec import Struct

from flows import expressions
from flows.counted import number_of
from flows.facts import Facts, StepFact
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import StepId
from protocol.plan import FlowPlan, OnFailure, PlannedStep, StepKind
from protocol.states import RunStatus, StepStatus

MAX_CRASHES = 5
MAX_REPAIRS = 1

CRASHED = "crashed_repeatedly"
NOT_CALLED_FOR = "not called for"
FINISHED_EARLY = "finished early"
CANCELLED = "cancelled"
NOTHING_DELIVERED = "no agent delivered a result"
READ_ONLY_UNPROVEN = ErrorCode.READ_ONLY_UNPROVEN.value
"""Why an attempt failed that wrote where nothing may be written, or could have: the run's own end,
whatever the flow says of the step."""


# ── events: what happened ────────────────────────────────────────────────────────────────────────


class StepQueued(Struct, frozen=True, tag=True):
    """The step waits for a slot."""

    step_id: StepId


class StepStarted(Struct, frozen=True, tag=True):
    """Attempt number `attempt` has started. Attempts count from 1."""

    step_id: StepId
    attempt: int


class StepDelivered(Struct, frozen=True, tag=True):
    """The step has a valid result."""

    step_id: StepId
    output: Any
    denied_tools: int = 0


class StepFailed(Struct, frozen=True, tag=True):
    """An attempt failed.

    It is `retryable` when the cause was infrastructure, `repairable` when there was an answer that
    only has the wrong form.
    """

    step_id: StepId
    reason: str
    retryable: bool = False
    repairable: bool = False


class StepCancelled(Struct, frozen=True, tag=True):
    """The step was stopped and nothing of it runs any more."""

    step_id: StepId


class StepSkipped(Struct, frozen=True, tag=True):
    step_id: StepId
    reason: str


class CancelRequested(Struct, frozen=True, tag=True):
    """A person wants one step to stop, or the whole run."""

    step_id: StepId | None = None


class FinishRequested(Struct, frozen=True, tag=True):
    """A person wants an early end with a report."""


class Restarted(Struct, frozen=True, tag=True):
    """The server died and is back: what ran is gone."""


Event = (
    StepQueued
    | StepStarted
    | StepDelivered
    | StepFailed
    | StepCancelled
    | StepSkipped
    | CancelRequested
    | FinishRequested
    | Restarted
)


# ── actions: what to do ──────────────────────────────────────────────────────────────────────────


class StartAgent(Struct, frozen=True, tag=True):
    """Queue one more attempt; with `repair` it gets its own rejected answer to correct."""

    step_id: StepId
    repair: bool = False


class Compute(Struct, frozen=True, tag=True):
    """Compute the function of a code step."""

    step_id: StepId


class Skip(Struct, frozen=True, tag=True):
    """End a step that has not started, or that only waits for a slot, without an attempt."""

    step_id: StepId
    reason: str


class CancelStep(Struct, frozen=True, tag=True):
    """Stop the step, whether it waits or runs.

    Decided again until its end is reported, so doing it twice must be harmless.
    """

    step_id: StepId


class End(Struct, frozen=True, tag=True):
    """Every step is terminal: the run ends so."""

    status: RunStatus
    reason: str | None = None


Action = StartAgent | Compute | Skip | CancelStep | End


# ── facts ────────────────────────────────────────────────────────────────────────────────────────


def initial(plan: FlowPlan) -> Facts:
    """Return the facts of a run of which nothing has happened."""
    return Facts(steps={step.id: StepFact() for step in plan.steps})


def reuse(plan: FlowPlan, old: Facts, again: set[StepId]) -> Facts:
    """Return the facts of a run that repeats `old`: same plan, what stands is not done again.

    A completed step stands unless it is in `again` or depends on a step that does not stand. A step
    that was skipped by its own condition stands too: it will be skipped again. Of a run that ended
    `read_only_unproven` nothing stands: others may have read what the culprit wrote. Raises
    ProtocolError when `again` names a step that the plan does not have.
    """
    unknown = sorted(again - set(old.steps))
    if unknown:
        raise ProtocolError(
            ErrorCode.BAD_ARGUMENTS, f"the run has no step {unknown[0]!r}", field="steps"
        )
    if unproven(plan, old):
        return initial(plan)
    standing: set[StepId] = set()
    for step in plan.steps:
        if step.id not in again and standing.issuperset(step.needs) and _stands(old.steps[step.id]):
            standing.add(step.id)
    return Facts(
        steps={
            step.id: _reused(old.steps[step.id]) if step.id in standing else StepFact()
            for step in plan.steps
        }
    )


def apply(plan: FlowPlan, facts: Facts, event: Event) -> Facts:
    """Return the facts after `event`.

    News about a step that has already ended changes nothing: the first end stands. Raises KeyError
    for a step that the plan does not have.
    """
    match event:
        case CancelRequested(step_id=None):
            return msgspec.structs.replace(facts, cancelling=True)
        case FinishRequested():
            return msgspec.structs.replace(facts, finishing=True)
        case Restarted():
            steps = {step_id: _restarted(fact) for step_id, fact in facts.steps.items()}
            return msgspec.structs.replace(facts, steps=steps)
    assert event.step_id is not None
    fact = facts.steps[event.step_id]
    if fact.status.terminal:
        return facts
    changed = _after(_step_of(plan, event.step_id), facts, fact, event)
    return msgspec.structs.replace(facts, steps={**facts.steps, event.step_id: changed})


def _after(
    step: PlannedStep,
    facts: Facts,
    fact: StepFact,
    event: StepQueued
    | StepStarted
    | StepDelivered
    | StepFailed
    | StepCancelled
    | StepSkipped
    | CancelRequested,
) -> StepFact:
    change = msgspec.structs.replace
    match event:
        case StepQueued():
            return change(fact, status=StepStatus.QUEUED)
        case StepStarted(attempt=attempt):
            return change(fact, status=StepStatus.RUNNING, attempt=attempt, reason=None)
        case StepDelivered(output=output, denied_tools=denied):
            return change(
                fact,
                status=StepStatus.COMPLETED,
                output=output,
                denied_tools=denied,
                reason=None,
            )
        case StepFailed():
            return _after_failure(step, facts, fact, event)
        case StepCancelled():
            return change(fact, status=StepStatus.CANCELLED, reason=CANCELLED)
        case StepSkipped(reason=reason):
            return change(fact, status=StepStatus.SKIPPED, reason=reason)
        case CancelRequested():
            return change(fact, cancelling=True)
    assert_never(event)


def _after_failure(step: PlannedStep, facts: Facts, fact: StepFact, event: StepFailed) -> StepFact:
    """A failed attempt goes back to pending when another may follow, else the step has failed."""
    change = msgspec.structs.replace
    again = event.reason != READ_ONLY_UNPROVEN and not (
        facts.cancelling or fact.cancelling or _stopped_short(step, facts)
    )
    if again and event.retryable and fact.retries < step.retries:
        return change(
            fact, status=StepStatus.PENDING, retries=fact.retries + 1, reason=event.reason
        )
    if again and event.repairable and fact.repairs < MAX_REPAIRS:
        return change(
            fact, status=StepStatus.PENDING, repairs=fact.repairs + 1, reason=event.reason
        )
    return change(fact, status=StepStatus.FAILED, reason=event.reason)


def _restarted(fact: StepFact) -> StepFact:
    change = msgspec.structs.replace
    if fact.status is StepStatus.QUEUED:
        return change(fact, status=StepStatus.PENDING)
    if fact.status is not StepStatus.RUNNING:
        return fact
    crashes = fact.crashes + 1
    if crashes >= MAX_CRASHES:
        return change(fact, status=StepStatus.FAILED, crashes=crashes, reason=CRASHED)
    return change(fact, status=StepStatus.PENDING, crashes=crashes)


def _stands(fact: StepFact) -> bool:
    by_condition = fact.status is StepStatus.SKIPPED and fact.reason != FINISHED_EARLY
    return fact.status is StepStatus.COMPLETED or by_condition


def _reused(fact: StepFact) -> StepFact:
    if fact.status is StepStatus.SKIPPED:
        return StepFact()
    return StepFact(
        status=StepStatus.COMPLETED,
        output=fact.output,
        reused=True,
        denied_tools=fact.denied_tools,
    )


# ── decisions ────────────────────────────────────────────────────────────────────────────────────


def decide(plan: FlowPlan, facts: Facts) -> list[Action]:
    """Return everything that should be under way and is not, in plan order.

    Asking twice gives the same answer; a queued or running step is not started again. A list with
    `End` has nothing else: it comes once every step is terminal, and only then.
    """
    open_steps = [step for step in plan.steps if not facts.steps[step.id].status.terminal]
    if not open_steps:
        return [_end(plan, facts)]
    if facts.cancelling or _fatal(plan, facts) is not None:
        return [CancelStep(step.id) for step in open_steps]
    decided = (_decide_one(step, plan, facts) for step in open_steps)
    return [action for action in decided if action is not None]


def _decide_one(step: PlannedStep, plan: FlowPlan, facts: Facts) -> Action | None:
    fact = facts.steps[step.id]
    if fact.cancelling:
        return CancelStep(step.id)
    if _stopped_short(step, facts) and fact.status is not StepStatus.RUNNING:
        return Skip(step.id, FINISHED_EARLY)
    needs = {need: facts.steps[need] for need in step.needs}
    if fact.status is not StepStatus.PENDING or not all(
        it.status.terminal for it in needs.values()
    ):
        return None
    obstacle = _obstacle(step, plan, facts, needs)
    if obstacle is not None:
        return Skip(step.id, obstacle)
    if step.kind is StepKind.CODE:
        return Compute(step.id)
    return StartAgent(step.id, repair=fact.repairs > 0)


def _stopped_short(step: PlannedStep, facts: Facts) -> bool:
    """Whether an early end keeps the step from starting; who judges what there is may go on."""
    return facts.finishing and step.kind is StepKind.AGENT and step.output != "verdicts"


def _obstacle(
    step: PlannedStep, plan: FlowPlan, facts: Facts, needs: Mapping[StepId, StepFact]
) -> str | None:
    """Why a step whose needs have ended is not to start; None when it is."""
    completed = sum(need.status is StepStatus.COMPLETED for need in needs.values())
    if step.quorum is not None and completed < step.quorum:
        wanted = number_of(len(needs), "step")
        return f"{completed} of {wanted} it builds on completed, {step.quorum} must have"
    undelivered = list(_undelivered(plan, needs))
    scope = expressions.Scope(
        inputs=plan.inputs,
        signals={signal.id: signal.hits for signal in plan.signals},
        band=plan.band.name,
        steps=facts.steps,
        succeeded=not undelivered,
        failed=bool(undelivered),
    )
    condition = expressions.parse(step.when or "success()")
    if expressions.holds(condition, scope):
        return None
    if undelivered:
        return f"it builds on {', '.join(undelivered)}"
    return f"not called for: {step.otherwise}" if step.otherwise else NOT_CALLED_FOR


def _undelivered(plan: FlowPlan, needs: Mapping[StepId, StepFact]) -> Iterator[str]:
    """The needs that speak against `success()`. A failure that the flow ignores does not."""
    for step_id, fact in needs.items():
        ignored = _step_of(plan, step_id).on_failure is OnFailure.SKIP
        if fact.status is StepStatus.CANCELLED:
            yield f"{step_id}, which was cancelled"
        elif fact.status is StepStatus.FAILED and not ignored:
            yield f"{step_id}, which failed"


def _fatal(plan: FlowPlan, facts: Facts) -> PlannedStep | None:
    """The first step that ended without a result and takes the run with it."""
    for step in unproven(plan, facts):
        return step
    for step in plan.steps:
        ended_badly = facts.steps[step.id].status in (StepStatus.FAILED, StepStatus.CANCELLED)
        if ended_badly and step.on_failure is OnFailure.FAIL:
            return step
    return None


def unproven(plan: FlowPlan, facts: Facts) -> list[PlannedStep]:
    """Return the steps that failed because read-only could not be proven, in plan order."""
    return [
        step
        for step in plan.steps
        if facts.steps[step.id].status is StepStatus.FAILED
        and facts.steps[step.id].reason == READ_ONLY_UNPROVEN
    ]


def _end(plan: FlowPlan, facts: Facts) -> End:
    if unproven(plan, facts):
        # Before anything else: a person who cancelled meanwhile must hear of it too.
        return End(RunStatus.FAILED, READ_ONLY_UNPROVEN)
    if facts.cancelling:
        return End(RunStatus.CANCELLED, "cancelled")
    fatal = _fatal(plan, facts)
    if fatal is not None:
        return End(RunStatus.FAILED, f"{fatal.id}: {facts.steps[fatal.id].reason}")
    if _nothing_delivered(plan, facts) and not facts.finishing:
        return End(RunStatus.FAILED, NOTHING_DELIVERED)
    wanting = [step for step in plan.steps if _is_wanting(step, facts.steps[step.id])]
    if wanting:
        return End(RunStatus.PARTIAL, f"not delivered: {', '.join(step.id for step in wanting)}")
    return End(RunStatus.COMPLETED)


def _is_wanting(step: PlannedStep, fact: StepFact) -> bool:
    """Whether the report lacks something that the plan had promised."""
    match fact.status:
        case StepStatus.FAILED:
            return step.on_failure is not OnFailure.SKIP
        case StepStatus.CANCELLED:
            return True
        case StepStatus.SKIPPED:
            return fact.reason == FINISHED_EARLY
    return False


def _nothing_delivered(plan: FlowPlan, facts: Facts) -> bool:
    """Whether agents failed and none completed: such a report would say nothing of the code."""
    ends = {facts.steps[it.id].status for it in plan.steps if it.kind is StepKind.AGENT}
    return StepStatus.FAILED in ends and StepStatus.COMPLETED not in ends


def _step_of(plan: FlowPlan, step_id: StepId) -> PlannedStep:
    return next(step for step in plan.steps if step.id == step_id)
