"""The life of a run: each rule by itself, then every interleaving and every crash."""

from collections.abc import Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.engine import (
    CRASHED,
    FINISHED_EARLY,
    MAX_CRASHES,
    NOTHING_DELIVERED,
    READ_ONLY_UNPROVEN,
    Action,
    CancelRequested,
    CancelStep,
    Compute,
    End,
    Event,
    FinishRequested,
    Restarted,
    Skip,
    StartAgent,
    StepCancelled,
    StepDelivered,
    StepFailed,
    StepQueued,
    StepSkipped,
    StepStarted,
    apply,
    decide,
    initial,
    reuse,
)
from flows.facts import Facts
from protocol.errors import ProtocolError
from protocol.ids import StepId
from protocol.plan import FlowPlan, OnFailure
from protocol.states import STEP_MOVES, RunStatus, StepStatus
from tests.flows.plans import plan_of, review_shape, step

T = TypeVar("T")
A, B, C = StepId("a"), StepId("b"), StepId("c")


def after(plan: FlowPlan, *events: Event, facts: Facts | None = None) -> Facts:
    facts = facts or initial(plan)
    for event in events:
        facts = apply(plan, facts, event)
    return facts


def status(facts: Facts, step_id: str) -> StepStatus:
    return facts.steps[StepId(step_id)].status


# ── starting ─────────────────────────────────────────────────────────────────────────────────────


def test_a_wave_starts_together_and_the_next_phase_waits_for_all_of_it() -> None:
    plan = plan_of(step("a"), step("b"), step("c", "a", "b"))
    assert decide(plan, initial(plan)) == [StartAgent(A), StartAgent(B)]
    one_left = after(plan, StepDelivered(A, {}), StepStarted(B, 1))
    assert decide(plan, one_left) == []
    assert decide(plan, after(plan, StepDelivered(B, {}), facts=one_left)) == [StartAgent(C)]


def test_what_is_queued_or_running_is_not_started_again() -> None:
    plan = plan_of(step("a"), step("b"))
    assert decide(plan, after(plan, StepQueued(A), StepStarted(B, 1))) == []


def test_a_code_step_is_computed() -> None:
    plan = plan_of(step("a", function="merge"))
    assert decide(plan, initial(plan)) == [Compute(A)]


def test_a_step_is_skipped_when_a_need_failed() -> None:
    plan = plan_of(step("a"), step("b", "a"))
    facts = after(plan, StepFailed(A, "budget"))
    assert decide(plan, facts) == [Skip(B, "it builds on a, which failed")]


def test_a_skipped_need_is_no_obstacle() -> None:
    plan = plan_of(step("a"), step("b", "a"))
    assert decide(plan, after(plan, StepSkipped(A, "not called for"))) == [StartAgent(B)]


def test_a_failure_that_the_flow_ignores_is_no_obstacle() -> None:
    plan = plan_of(step("a", on_failure=OnFailure.SKIP), step("b", "a"))
    assert decide(plan, after(plan, StepFailed(A, "budget"))) == [StartAgent(B)]


def test_always_runs_after_a_failure() -> None:
    plan = plan_of(step("a"), step("b", "a", when="always()"))
    assert decide(plan, after(plan, StepFailed(A, "budget"))) == [StartAgent(B)]


def test_a_condition_decides_over_the_outputs_of_earlier_steps() -> None:
    plan = plan_of(step("a"), step("b", "a", when="count(steps.a.output.found) > 0"))
    assert decide(plan, after(plan, StepDelivered(A, {"found": [1]}))) == [StartAgent(B)]
    (skip,) = decide(plan, after(plan, StepDelivered(A, {"found": []})))
    assert skip == Skip(B, "not called for"), "a condition is no sentence"
    told = plan_of(step("a"), step("b", "a", when="failure()", otherwise="nothing failed"))
    (skip,) = decide(told, after(told, StepDelivered(A, {})))
    assert skip == Skip(B, "not called for: nothing failed")


def test_a_quorum_counts_completed_needs() -> None:
    plan = plan_of(step("a"), step("b"), step("c", "a", "b", when="always()", quorum=1))
    one = after(plan, StepFailed(A, "x"), StepDelivered(B, {}))
    none = after(plan, StepFailed(A, "x"), StepSkipped(B, "x"))
    assert decide(plan, one) == [StartAgent(C)]
    assert decide(plan, none) == [Skip(C, "0 of 2 steps it builds on completed, 1 must have")]


# ── retry and repair ─────────────────────────────────────────────────────────────────────────────


def test_a_retryable_failure_is_tried_again_until_the_retries_are_used_up() -> None:
    plan = plan_of(step("a", retries=1))
    failed = StepFailed(A, "connection lost", retryable=True)
    once = after(plan, StepStarted(A, 1), failed)
    assert decide(plan, once) == [StartAgent(A)]
    assert once.steps[A].attempt == 1
    twice = after(plan, StepStarted(A, 2), failed, facts=once)
    assert status(twice, "a") is StepStatus.FAILED
    assert twice.steps[A].reason == "connection lost"


def test_another_failure_is_not_tried_again() -> None:
    plan = plan_of(step("a", retries=5))
    assert status(after(plan, StepFailed(A, "turn limit")), "a") is StepStatus.FAILED


def test_an_unparsable_answer_is_repaired_once() -> None:
    plan = plan_of(step("a", retries=0))
    failed = StepFailed(A, "no valid answer", repairable=True)
    once = after(plan, failed)
    assert decide(plan, once) == [StartAgent(A, repair=True)]
    assert status(after(plan, failed, facts=once), "a") is StepStatus.FAILED


# ── the end ──────────────────────────────────────────────────────────────────────────────────────


def test_everything_delivered_is_completed() -> None:
    plan = plan_of(step("a"), step("b", function="report"))
    facts = after(plan, StepDelivered(A, {}), StepDelivered(B, {}))
    assert decide(plan, facts) == [End(RunStatus.COMPLETED)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (OnFailure.DEGRADE, RunStatus.PARTIAL),
        (OnFailure.SKIP, RunStatus.COMPLETED),
        (OnFailure.FAIL, RunStatus.FAILED),
    ],
)
def test_the_failure_policy_decides_the_end(policy: OnFailure, expected: RunStatus) -> None:
    plan = plan_of(step("a", on_failure=policy), step("b"))
    (end,) = decide(plan, after(plan, StepFailed(A, "budget"), StepDelivered(B, {})))
    assert isinstance(end, End)
    assert end.status is expected


def test_a_failure_that_takes_the_run_with_it_stops_the_others_first() -> None:
    plan = plan_of(step("a", on_failure=OnFailure.FAIL), step("b"), step("c", "b"))
    facts = after(plan, StepStarted(B, 1), StepFailed(A, "budget"))
    assert decide(plan, facts) == [CancelStep(B), CancelStep(C)]
    over = after(plan, StepCancelled(B), StepCancelled(C), facts=facts)
    assert decide(plan, over) == [End(RunStatus.FAILED, "a: budget")]


def test_a_run_in_which_no_agent_delivered_has_failed() -> None:
    plan = plan_of(step("a"), step("b"), step("c", "a", "b", function="report", when="always()"))
    facts = after(plan, StepFailed(A, "x"), StepFailed(B, "x"), StepDelivered(C, {}))
    assert decide(plan, facts) == [End(RunStatus.FAILED, NOTHING_DELIVERED)]


def test_news_of_a_step_that_has_ended_changes_nothing() -> None:
    plan = plan_of(step("a"))
    done = after(plan, StepDelivered(A, {"x": 1}))
    for late in (StepFailed(A, "x"), StepCancelled(A), StepStarted(A, 9), CancelRequested(A)):
        assert apply(plan, done, late) == done
    with pytest.raises(KeyError):
        apply(plan, done, StepCancelled(StepId("unknown")))


# ── cancel and finish ────────────────────────────────────────────────────────────────────────────


def test_cancel_ends_only_when_nothing_runs() -> None:
    plan = plan_of(step("a"), step("b"), step("c", "b"))
    facts = after(plan, StepDelivered(A, {}), StepStarted(B, 1), CancelRequested())
    assert decide(plan, facts) == [CancelStep(B), CancelStep(C)]
    facts = after(plan, StepCancelled(C), facts=facts)
    assert decide(plan, facts) == [CancelStep(B)]
    facts = after(plan, StepCancelled(B), facts=facts)
    assert decide(plan, facts) == [End(RunStatus.CANCELLED, "cancelled")]
    assert status(facts, "a") is StepStatus.COMPLETED


def test_a_cancelled_step_leaves_the_others_alone_and_is_not_tried_again() -> None:
    plan = plan_of(step("a", retries=5), step("b"))
    facts = after(plan, StepStarted(A, 1), CancelRequested(A))
    assert decide(plan, facts) == [CancelStep(A), StartAgent(B)]
    raced = after(plan, StepFailed(A, "lost", retryable=True), facts=facts)
    assert status(raced, "a") is StepStatus.FAILED
    stopped = after(plan, StepCancelled(A), StepDelivered(B, {}), facts=facts)
    assert decide(plan, stopped) == [End(RunStatus.PARTIAL, "not delivered: a")]


def test_the_wish_to_cancel_survives_a_crash() -> None:
    plan = plan_of(step("a"), step("b"))
    facts = after(plan, StepStarted(A, 1), CancelRequested(A), Restarted())
    assert decide(plan, facts) == [CancelStep(A), StartAgent(B)]


def test_finish_skips_what_has_not_started_and_lets_the_rest_end() -> None:
    plan = review_shape()
    general, security = StepId("review.general.1"), StepId("review.security")
    facts = after(plan, StepStarted(general, 1), StepQueued(security), FinishRequested())
    assert decide(plan, facts) == [
        Skip(StepId("review.general.2"), FINISHED_EARLY),
        Skip(security, FINISHED_EARLY),
    ]
    facts = after(
        plan,
        StepSkipped(StepId("review.general.2"), FINISHED_EARLY),
        StepSkipped(security, FINISHED_EARLY),
        StepDelivered(general, {}),
        facts=facts,
    )
    assert decide(plan, facts) == [Compute(StepId("merge"))]
    facts = after(plan, StepDelivered(StepId("merge"), {"corrective": ["X"]}), facts=facts)
    assert decide(plan, facts) == [StartAgent(StepId("validate"))]


@pytest.mark.parametrize("request_", [FinishRequested(), CancelRequested(), CancelRequested(A)])
@pytest.mark.parametrize(
    "failure",
    [StepFailed(A, "lost", retryable=True), StepFailed(A, "no valid answer", repairable=True)],
)
def test_who_wants_an_end_gets_no_second_attempt(request_: Event, failure: StepFailed) -> None:
    plan = plan_of(step("a", retries=5))
    assert status(after(plan, StepStarted(A, 1), failure), "a") is StepStatus.PENDING
    facts = after(plan, StepStarted(A, 1), request_, failure)
    assert status(facts, "a") is StepStatus.FAILED


def test_finish_with_nothing_left_to_skip_is_completed() -> None:
    plan = plan_of(step("a"))
    facts = after(plan, StepStarted(A, 1), FinishRequested(), StepDelivered(A, {}))
    assert decide(plan, facts) == [End(RunStatus.COMPLETED)]


def test_finish_with_nothing_delivered_is_partial() -> None:
    plan = plan_of(step("a"), step("b", function="report", when="always()"))
    facts = after(plan, FinishRequested(), StepFailed(A, "x"), StepDelivered(B, {}))
    assert decide(plan, facts) == [End(RunStatus.PARTIAL, "not delivered: a")]


def test_finish_before_anything_ran_is_partial() -> None:
    plan = plan_of(step("a"))
    facts = after(plan, FinishRequested(), StepSkipped(A, FINISHED_EARLY))
    assert decide(plan, facts) == [End(RunStatus.PARTIAL, "not delivered: a")]


# ── read-only that could not be proven ───────────────────────────────────────────────────────────


UNPROVEN = StepFailed(A, READ_ONLY_UNPROVEN, retryable=True, repairable=True)


@pytest.mark.parametrize("policy", list(OnFailure))
def test_an_attempt_that_is_not_proven_ends_the_run_at_once(policy: OnFailure) -> None:
    """Whatever the flow says of the step, and whatever the failure says of itself."""
    plan = plan_of(step("a", on_failure=policy, retries=5), step("b"), step("c", "a"))
    facts = after(plan, StepStarted(A, 1), StepStarted(B, 1), UNPROVEN)
    assert facts.steps[A].status is StepStatus.FAILED
    assert facts.steps[A].output is None
    assert decide(plan, facts) == [CancelStep(B), CancelStep(C)]
    over = after(plan, StepCancelled(B), StepCancelled(C), facts=facts)
    assert decide(plan, over) == [End(RunStatus.FAILED, READ_ONLY_UNPROVEN)]


def test_another_failure_of_an_optional_step_ends_nothing() -> None:
    """The rule above is about this one reason."""
    plan = plan_of(step("a", on_failure=OnFailure.SKIP), step("b"))
    facts = after(plan, StepStarted(A, 1), StepStarted(B, 1), StepFailed(A, "loop"))
    assert decide(plan, facts) == []
    assert decide(plan, after(plan, StepDelivered(B, {}), facts=facts)) == [
        End(RunStatus.COMPLETED)
    ]


@pytest.mark.parametrize("wish", [CancelRequested(), FinishRequested(), CancelRequested(A)])
def test_no_wish_of_a_person_hides_that_it_is_not_proven(wish: Event) -> None:
    plan = plan_of(step("a"), step("b"))
    facts = after(plan, StepStarted(A, 1), wish, UNPROVEN, StepCancelled(B))
    assert decide(plan, facts) == [End(RunStatus.FAILED, READ_ONLY_UNPROVEN)]


def test_the_first_failure_does_not_hide_that_a_later_one_is_not_proven() -> None:
    plan = plan_of(step("b", on_failure=OnFailure.FAIL), step("a"))
    facts = after(plan, StepFailed(B, "budget"), UNPROVEN)
    assert decide(plan, facts) == [End(RunStatus.FAILED, READ_ONLY_UNPROVEN)]


def test_a_rerun_of_a_run_that_is_not_proven_reuses_nothing() -> None:
    """What others read meanwhile may be what the culprit wrote."""
    plan = plan_of(step("a"), step("b"))
    old = after(plan, StepDelivered(B, {}), UNPROVEN)
    assert reuse(plan, old, set()) == initial(plan)
    other = after(plan, StepDelivered(B, {}), StepFailed(A, "loop"))
    assert reuse(plan, other, set()).steps[B].reused


# ── crash and rerun ──────────────────────────────────────────────────────────────────────────────


def test_a_crash_starts_again_what_ran_and_leaves_the_rest() -> None:
    plan = plan_of(step("a"), step("b"), step("c"))
    facts = after(plan, StepDelivered(A, {"x": 1}), StepStarted(B, 1), StepQueued(C), Restarted())
    assert decide(plan, facts) == [StartAgent(B), StartAgent(C)]
    assert facts.steps[A].output == {"x": 1}
    assert (facts.steps[B].crashes, facts.steps[C].crashes) == (1, 0)
    assert facts.steps[B].retries == 0


def test_the_fifth_crash_during_one_step_is_its_failure() -> None:
    plan = plan_of(step("a"))
    facts = initial(plan)
    for crash in range(1, MAX_CRASHES + 1):
        assert decide(plan, facts) == [StartAgent(A)]
        facts = after(plan, StepStarted(A, crash), Restarted(), facts=facts)
    assert status(facts, "a") is StepStatus.FAILED
    assert facts.steps[A].reason == CRASHED


def finished_review(**outputs: Any) -> tuple[FlowPlan, Facts]:
    plan = review_shape()
    delivered = [StepDelivered(it.id, outputs.get(it.id, {"by": it.id})) for it in plan.steps]
    return plan, after(plan, *delivered)


def test_a_rerun_of_everything_completed_reuses_everything() -> None:
    plan, old = finished_review()
    facts = reuse(plan, old, set())
    assert all(fact.reused and fact.attempt == 0 for fact in facts.steps.values())
    assert decide(plan, facts) == [End(RunStatus.COMPLETED)]


def test_a_rerun_of_one_step_repeats_what_depends_on_it() -> None:
    plan, old = finished_review()
    facts = reuse(plan, old, {StepId("validate")})
    again = [step_id for step_id, fact in facts.steps.items() if not fact.reused]
    assert again == ["validate", "reconcile", "report"]


def test_a_rerun_repeats_what_failed_and_recomputes_what_was_built_on_it() -> None:
    plan = review_shape()
    old = after(
        plan,
        StepFailed(StepId("review.security"), "x"),
        *[StepDelivered(it.id, {}) for it in plan.steps],
    )
    facts = reuse(plan, old, set())
    kept = [step_id for step_id, fact in facts.steps.items() if fact.reused]
    assert kept == ["review.general.1", "review.general.2"]


def test_a_rerun_keeps_what_stands_behind_a_step_skipped_by_its_condition() -> None:
    plan = review_shape()
    skipped = StepSkipped(StepId("validate"), "not called for: …")
    old = after(plan, skipped, *[StepDelivered(it.id, {}) for it in plan.steps])
    facts = reuse(plan, old, set())
    assert facts.steps[StepId("report")].reused
    assert [type(it) for it in decide(plan, facts)] == [Skip]
    early = after(
        plan,
        StepSkipped(StepId("validate"), FINISHED_EARLY),
        *[StepDelivered(it.id, {}) for it in plan.steps],
    )
    assert not reuse(plan, early, set()).steps[StepId("report")].reused


def test_a_rerun_refuses_a_step_that_is_not_there() -> None:
    plan, old = finished_review()
    with pytest.raises(ProtocolError, match="no step 'nobody'"):
        reuse(plan, old, {StepId("nobody")})


# ── every interleaving ───────────────────────────────────────────────────────────────────────────


class Shell:
    """Performs actions like the runner.

    A list of numbers decides about order, outcomes, requests and crashes; when it is used up,
    everything goes well.
    """

    def __init__(self, plan: FlowPlan, numbers: list[int]) -> None:
        self.plan = plan
        self.facts = initial(plan)
        self._numbers = iter(numbers)

    def run(self) -> End:
        """Go on until the run ends; each round does one thing that a runner could do next."""
        while True:
            actions = decide(self.plan, self.facts)
            assert actions == decide(self.plan, self.facts)
            match actions:
                case [End() as end]:
                    return end
            assert not any(isinstance(action, End) for action in actions)
            disturbance = self._disturbance()
            if disturbance is not None:
                self._tell(disturbance)
            else:
                self._progress(actions)

    def _disturbance(self) -> Event | None:
        match self._pick(range(12)):
            case 11:
                return Restarted()
            case 10:
                return FinishRequested()
            case 9:
                return CancelRequested()
            case 8:
                return CancelRequested(self._pick(list(self.facts.steps)))
        return None

    def _progress(self, actions: list[Action]) -> None:
        queued = [StepStarted(it, 1 + self.facts.steps[it].attempt) for it in self._in("queued")]
        running = [self._outcome(it) for it in self._in("running")]
        choices = [*map(self._performed, actions), *queued, *running]
        assert choices, "nothing is under way and nothing is decided"
        self._tell(self._pick(choices))

    def _performed(self, action: Action) -> Event:
        """What the runner reports first of an action."""
        match action:
            case StartAgent(step_id=step_id):
                assert self.facts.steps[step_id].status is StepStatus.PENDING
                return StepQueued(step_id)
            case Compute(step_id=step_id):
                assert self.facts.steps[step_id].status is StepStatus.PENDING
                return StepStarted(step_id, 1 + self.facts.steps[step_id].attempt)
            case Skip(step_id=step_id, reason=reason):
                return StepSkipped(step_id, reason)
            case CancelStep(step_id=step_id):
                return StepCancelled(step_id)
        raise AssertionError(action)

    def _outcome(self, step_id: StepId) -> Event:
        outcomes: list[Event] = [
            StepDelivered(step_id, {"corrective": ["X"]}),
            StepDelivered(step_id, {"corrective": []}),
            StepFailed(step_id, "final"),
            StepFailed(step_id, "lost", retryable=True),
            StepFailed(step_id, "form", repairable=True),
            StepFailed(step_id, READ_ONLY_UNPROVEN, retryable=True),
        ]
        return self._pick(outcomes)

    def _tell(self, event: Event) -> None:
        before, self.facts = self.facts, apply(self.plan, self.facts, event)
        for step_id, fact in self.facts.steps.items():
            old, new = before.steps[step_id].status, fact.status
            # Back to pending is "queue it again": the stored row goes straight to queued.
            if old is not new and new is not StepStatus.PENDING:
                row = StepStatus.QUEUED if old is StepStatus.PENDING and fact.attempt else old
                assert new in STEP_MOVES[row] or new in STEP_MOVES[old], (old, new)

    def _in(self, wanted: str) -> list[StepId]:
        return [it for it, fact in self.facts.steps.items() if fact.status == wanted]

    def _pick(self, choices: Sequence[T]) -> T:
        return choices[next(self._numbers, 0) % len(choices)]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.integers(0, 59), max_size=150))
def test_every_interleaving_reaches_exactly_one_end(numbers: list[int]) -> None:
    plan = review_shape()
    shell = Shell(plan, numbers)
    end = shell.run()
    facts = shell.facts
    assert all(fact.status.terminal for fact in facts.steps.values())
    assert end.status.terminal
    unproven = any(fact.reason == READ_ONLY_UNPROVEN for fact in facts.steps.values())
    assert (end == End(RunStatus.FAILED, READ_ONLY_UNPROVEN)) == unproven
    assert (end.status is RunStatus.CANCELLED) == (facts.cancelling and not unproven)
    if end.status is RunStatus.COMPLETED:
        assert StepStatus.FAILED not in {fact.status for fact in facts.steps.values()}
    for it in plan.steps:
        fact = facts.steps[it.id]
        assert fact.retries <= it.retries
        assert fact.repairs <= 1
        assert fact.attempt <= 1 + fact.retries + fact.repairs + fact.crashes
    # An end is an end: whatever comes later, the same run ends the same way.
    assert decide(plan, apply(plan, facts, Restarted())) == [end]


def deliver_all(plan: FlowPlan, facts: Facts, *, until: int | None = None) -> Facts:
    """Perform every action with the outcome that belongs to the step; stop after some events."""
    told = 0
    while until is None or told < until:
        actions = decide(plan, facts)
        if isinstance(actions[0], End):
            return facts
        match actions[0]:
            case StartAgent(step_id=step_id) | Compute(step_id=step_id):
                attempt = facts.steps[step_id].attempt + 1
                facts = apply(plan, facts, StepStarted(step_id, attempt))
                told += 1
                if told == until:
                    return facts
                facts = apply(plan, facts, OUTCOMES[step_id])
            case Skip(step_id=step_id, reason=reason):
                facts = apply(plan, facts, StepSkipped(step_id, reason))
        told += 1
    return facts


OUTCOMES: dict[StepId, Event] = {
    it.id: StepFailed(it.id, "budget")
    if it.id == "review.general.2"
    else StepDelivered(it.id, {"by": it.id, "corrective": ["X"]})
    for it in review_shape().steps
}


@pytest.mark.parametrize("prefix", range(14))
def test_a_crash_after_any_event_leads_to_the_same_outputs(prefix: int) -> None:
    plan = review_shape()
    undisturbed = deliver_all(plan, initial(plan))
    stored = deliver_all(plan, initial(plan), until=prefix)
    resumed = deliver_all(plan, apply(plan, stored, Restarted()))
    for step_id, fact in undisturbed.steps.items():
        assert resumed.steps[step_id].status is fact.status
        assert resumed.steps[step_id].output == fact.output
