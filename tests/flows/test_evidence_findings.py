"""How an agent's findings become numbered findings with checked citations."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.evidence.citations import Checker
from flows.evidence.findings import Collected, collect, introduced
from flows.evidence.schema import parse_output
from flows.outputs import FindingsOutput
from protocol.plan import FlowPlan, LineRange, PlannedStep, Scope, ScopeFile
from protocol.report import FindingState, Severity
from tests.flows.plans import caps, plan_of, step
from tests.flows.trees import ROOT, TREE, place, raw_answer, raw_citation, raw_finding

SECURITY = step("review.security", role="security", prefix="SEC", files=["app/db.py"])
INVENTED = raw_citation("nothing like this stands anywhere")


def gathered(
    *findings: dict[str, Any],
    by: PlannedStep = SECURITY,
    plan: FlowPlan | None = None,
) -> Collected:
    answer = parse_output("findings", raw_answer(*findings))
    assert isinstance(answer, FindingsOutput)
    checker = Checker(TREE, root=ROOT)
    return collect(answer.findings, by, plan=plan or plan_of(by), checker=checker)


def test_findings_are_numbered_in_order_with_the_prefix_of_their_step() -> None:
    found = gathered(raw_finding(title="one", alias="S1"), raw_finding(title="two")).findings
    assert [(it.id, it.title, it.alias) for it in found] == [
        ("SEC-01", "one", "S1"),
        ("SEC-02", "two", None),
    ]
    assert {(it.step_id, it.role, it.state) for it in found} == {
        ("review.security", "security", FindingState.OPEN)
    }


def test_a_copy_of_a_fan_out_has_its_place_in_the_id() -> None:
    copy = step("review.general.2", role="generalist", prefix="JUN", index=2)
    assert gathered(raw_finding(), by=copy).findings[0].id == "JUN-2-01"


def test_without_a_found_citation_a_finding_is_unverified_and_never_critical() -> None:
    invented, sound = gathered(
        raw_finding(severity="critical", citations=[INVENTED]),
        raw_finding(severity="critical", citations=[INVENTED, raw_citation()]),
    ).findings
    assert (invented.state, invented.severity) == (FindingState.UNVERIFIED, Severity.WARNING)
    assert invented.notes == ["demoted from critical: none of its citations was found"]
    assert (sound.state, sound.severity, sound.notes) == (FindingState.OPEN, Severity.CRITICAL, [])


@given(st.lists(st.sampled_from(["critical", "warning", "suggestion"]), max_size=12))
def test_of_too_many_findings_the_gravest_are_kept_and_the_rest_counted(
    severities: list[str],
) -> None:
    plan = plan_of(SECURITY, caps=caps(findings_per_step=4))
    raw = [raw_finding(severity=it, title=f"t{n:03}") for n, it in enumerate(severities)]
    kept, cut = gathered(*raw, plan=plan)
    assert len(kept) + cut == len(raw)
    assert len(kept) == min(4, len(raw))
    assert [it.title for it in kept] == sorted(it.title for it in kept)
    order = list(Severity)
    gravest = sorted((Severity(it) for it in severities), key=order.index)[: len(kept)]
    assert sorted((it.severity for it in kept), key=order.index) == gravest
    assert len({it.id for it in kept}) == len(kept)


def test_a_finding_outside_the_slice_of_its_step_says_so() -> None:
    other = step("review.general.1", role="generalist", prefix="JUN", files=["lib/db.py"])
    assert gathered(raw_finding(), by=other).findings[0].notes == [
        "cites only files outside the slice of its step"
    ]
    assert gathered(raw_finding()).findings[0].notes == []


@pytest.mark.parametrize("kind", ["uncommitted", "branch", "head"])
def test_introduced_is_computed_from_the_added_lines(kind: str) -> None:
    changed = ScopeFile(path="app/db.py", lines=12, added=[LineRange(1, 2), LineRange(11, 11)])
    scope = Scope(kind=kind, description="d", files=[changed], total_files=1)
    assert introduced([place(start=10, end=11)], scope) is True
    assert introduced([place(start=3, end=10)], scope) is False
    assert introduced([place(start=3, end=10), place(start=2, end=3)], scope) is True
    assert introduced([place("lib/db.py", 1, 2)], scope) is False
    assert introduced([], scope) is None


@pytest.mark.parametrize("kind", ["paths", "tree", "none"])
def test_without_a_change_nothing_is_known_of_what_introduced_it(kind: str) -> None:
    scope = Scope(kind=kind, description="d", files=[], total_files=0)
    assert introduced([place()], scope) is None
