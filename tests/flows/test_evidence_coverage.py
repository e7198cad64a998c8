"""Rule 14: a report says of every step whether it delivered, and is complete only if all did."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.engine import FINISHED_EARLY, End, decide
from flows.evidence.coverage import OVER_THE_CAP, coverage, delivered, missing
from flows.facts import Facts, StepFact
from flows.roster import SIGNAL_ABSENT
from protocol.ids import StepId
from protocol.plan import OnFailure, Scope, ScopeFile, Seat, StepKind, Tree
from protocol.report import Coverage
from protocol.states import RunStatus, StepStatus
from tests.flows.plans import plan_of, review_shape, step

FILES = [ScopeFile(path=f"{name}.py", lines=1) for name in "abc"]
PLAN = plan_of(
    step("review.general", role="generalist", files=["a.py", "b.py"], required=True),
    step("review.data", role="data", files=["c.py"]),
    step("merge", "review.general", "review.data", function="merge", when="always()"),
    scope=Scope(kind="paths", description="three files", files=FILES, total_files=3),
    tree=Tree(id="t" * 40, files=3, left_out={"binary": 2}, notes=["a note of the tree"]),
    roster=[Seat(role="generalist", title="", reason="always there", spine=True)],
    omitted=[
        Seat(role="devops", title="", reason="over the cap of the small band"),
        Seat(role="test", title="", reason=SIGNAL_ABSENT),
    ],
    warnings=["a warning of the plan"],
)


def facts_of(*statuses: StepStatus, **changes: Any) -> Facts:
    names = [it.id for it in PLAN.steps]
    return Facts(
        steps={
            name: StepFact(status=status, **changes)
            for name, status in zip(names, statuses, strict=True)
        }
    )


def covered(facts: Facts, status: RunStatus | None = RunStatus.COMPLETED) -> Coverage:
    return coverage(PLAN, facts, status=status, notes=["a note"])


DONE = StepStatus.COMPLETED


def test_a_run_that_delivered_all_is_complete() -> None:
    it = covered(facts_of(DONE, DONE, DONE))
    assert it.complete
    assert (it.files_reviewed, it.files_in_scope) == (3, 3)
    assert [step.step_id for step in it.steps] == ["review.general", "review.data"]
    assert it.left_out == {"binary": 2}
    assert it.omitted_roles == ["devops: over the cap of the small band"]
    assert it.notes == ["a warning of the plan", "a note of the tree", "a note"]


def test_files_over_the_cap_are_named_and_keep_a_run_from_being_complete() -> None:
    scope = msgspec.structs.replace(PLAN.scope, total_files=5, left_out=["d.py", "e.py"])
    plan = msgspec.structs.replace(PLAN, scope=scope)
    done = facts_of(DONE, DONE, DONE)
    it = coverage(plan, done, status=RunStatus.COMPLETED, notes=[])
    assert not it.complete
    assert delivered(plan, done, RunStatus.COMPLETED)
    assert (it.files_reviewed, it.files_in_scope) == (3, 5)
    assert it.left_out == {"binary": 2, OVER_THE_CAP: 2}
    assert it.left_out_paths == ["d.py", "e.py"]


def test_only_files_of_reviewers_that_delivered_are_reviewed() -> None:
    assert covered(facts_of(DONE, StepStatus.FAILED, DONE)).files_reviewed == 2


@pytest.mark.parametrize("status", [it for it in StepStatus if it is not DONE])
def test_without_a_required_step_nothing_is_complete(status: StepStatus) -> None:
    it = covered(facts_of(status, DONE, DONE, reason="why"))
    assert not it.complete
    assert (it.steps[0].status, it.steps[0].reason) == (status.value, "why")


@pytest.mark.parametrize("status", [RunStatus.PARTIAL, RunStatus.FAILED, RunStatus.CANCELLED])
def test_a_run_that_ended_short_is_not_complete(status: RunStatus) -> None:
    assert not covered(facts_of(DONE, DONE, DONE), status).complete


def test_a_code_step_is_named_only_when_it_did_not_deliver() -> None:
    it = covered(facts_of(DONE, DONE, StepStatus.FAILED))
    assert [step.step_id for step in it.steps][-1] == "merge"
    assert not it.complete


def test_a_step_that_was_not_called_for_is_not_missing() -> None:
    skipped = facts_of(DONE, StepStatus.SKIPPED, DONE, reason="not called for: false")
    early = facts_of(DONE, StepStatus.SKIPPED, DONE, reason=FINISHED_EARLY)
    assert covered(skipped).complete
    assert not covered(early).complete


def test_a_failure_that_the_flow_ignores_is_named_and_not_missing() -> None:
    ignored = msgspec.structs.replace(PLAN.steps[1], on_failure=OnFailure.SKIP)
    plan = msgspec.structs.replace(PLAN, steps=[PLAN.steps[0], ignored, PLAN.steps[2]])
    it = coverage(plan, facts_of(DONE, StepStatus.FAILED, DONE), status=None, notes=[])
    assert it.complete
    assert it.steps[1].status == "failed"


def test_reused_steps_and_denied_tools_are_named() -> None:
    it = covered(facts_of(DONE, DONE, DONE, reused=True, denied_tools=3))
    assert {(step.reused, step.denied_tools) for step in it.steps} == {(True, 3)}


def test_a_seat_without_a_step_is_named() -> None:
    plan = msgspec.structs.replace(PLAN, roster=[Seat(role="ghost", title="", reason="")])
    it = coverage(plan, facts_of(DONE, DONE, DONE), status=None, notes=[])
    assert not it.complete
    assert "no step was planned for ghost" in it.notes


@given(st.data())
def test_coverage_agrees_with_how_the_engine_ends_the_run(data: st.DataObject) -> None:
    plan = review_shape()
    ends = st.sampled_from([it for it in StepStatus if it.terminal])
    steps = {it.id: StepFact(status=data.draw(ends), reason="r") for it in plan.steps}
    facts = Facts(steps=steps)
    (end,) = decide(plan, facts)
    assert isinstance(end, End)
    it = coverage(plan, facts, status=end.status, notes=[])
    assert it.complete == (end.status is RunStatus.COMPLETED)
    agents = {it.id for it in plan.steps if it.kind is StepKind.AGENT}
    assert agents | {it.id for it in missing(plan, facts)} == {it.step_id for it in it.steps}
    assert all(it.status != "completed" or it.step_id in agents for it in it.steps)


def test_a_run_that_goes_on_is_not_complete() -> None:
    facts = Facts(steps={StepId(it.id): StepFact() for it in PLAN.steps})
    assert not covered(facts, None).complete
