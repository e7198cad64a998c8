"""Rule 11: one verdict for each submitted finding, and what it takes to drop one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.evidence.citations import Checker
from flows.evidence.schema import VerdictError
from flows.evidence.verdicts import judge, reconcile
from flows.outputs import AgentVerdict
from protocol.report import (
    Citation,
    CitationState,
    Finding,
    FindingState,
    Severity,
    Verdict,
    VerdictKind,
)
from tests.flows.trees import ROOT, TREE, cited, finding, findings, place

IDS = ["JUN-01", "JUN-02", "SEC-01"]


def verdict(id: str, kind: VerdictKind = VerdictKind.CONFIRMED) -> AgentVerdict:
    return AgentVerdict(finding_id=id, verdict=kind, reason="why", citations=[])


def judged(kind: VerdictKind, *citations: Citation) -> list[Verdict]:
    return [Verdict(finding_id="JUN-01", kind=kind, reason="why", citations=list(citations))]


# ── coverage ─────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.sampled_from([*IDS, "SEC-02"]), min_size=1, max_size=6))
def test_exactly_one_verdict_for_each_submitted_id(answered: list[str]) -> None:
    checker = Checker(TREE, root=ROOT)
    verdicts = [verdict(id) for id in answered]
    if sorted(answered) == IDS:
        assert [it.finding_id for it in judge(verdicts, IDS, checker)] == IDS
        return
    with pytest.raises(VerdictError) as caught:
        judge(verdicts, IDS, checker)
    assert set(caught.value.missing) == set(IDS) - set(answered)
    assert set(caught.value.extra) == set(answered) - set(IDS)
    assert set(caught.value.doubled) == {id for id in answered if answered.count(id) > 1}
    for id in (*caught.value.missing, *caught.value.extra, *caught.value.doubled):
        assert id in str(caught.value)


def test_citations_of_a_verdict_are_checked() -> None:
    answered = AgentVerdict(
        finding_id="JUN-01",
        verdict=VerdictKind.REFUTED,
        reason="why",
        citations=[cited("db.commit()\ndb.close()", start=10), cited("no such words here")],
    )
    (checked,) = judge([answered], ["JUN-01"], Checker(TREE, root=ROOT))
    assert [it.state.found for it in checked.citations] == [True, False]


# ── what a verdict does ──────────────────────────────────────────────────────────────────────────


def test_confirmed_stands() -> None:
    (after,) = reconcile([finding()], judged(VerdictKind.CONFIRMED))
    assert (after.state, after.severity) == (FindingState.CONFIRMED, Severity.WARNING)
    assert after.verdict is not None


@pytest.mark.parametrize("severity", list(Severity))
def test_partly_refuted_is_demoted_by_one(severity: Severity) -> None:
    (after,) = reconcile([finding(severity=severity)], judged(VerdictKind.PARTIALLY_REFUTED))
    assert after.state is FindingState.DEMOTED
    order = list(Severity)
    assert after.severity is order[min(order.index(severity) + 1, 2)]


@pytest.mark.parametrize("state", list(CitationState))
def test_refuted_is_dropped_only_with_a_found_citation(state: CitationState) -> None:
    (after,) = reconcile([finding()], judged(VerdictKind.REFUTED, place(state=state)))
    assert (after.state is FindingState.REFUTED) == state.found
    assert (after.severity is Severity.SUGGESTION) == (not state.found)
    assert len(after.notes) == 1


def test_refuted_without_any_citation_is_demoted() -> None:
    (after,) = reconcile([finding("SEC-01"), finding()][1:], judged(VerdictKind.REFUTED))
    assert after.state is FindingState.DEMOTED


@given(findings(), st.data())
def test_only_judged_findings_change_and_none_is_lost(
    given: list[Finding], data: st.DataObject
) -> None:
    kinds = {it.id: data.draw(st.none() | st.sampled_from(VerdictKind)) for it in given}
    verdicts = [Verdict(finding_id=id, kind=kind, reason="r") for id, kind in kinds.items() if kind]
    after = reconcile(given, verdicts)
    assert [it.id for it in after] == list(kinds)
    for before, now in zip(given, after, strict=True):
        assert (before == now) == (kinds[before.id] is None)
        assert now.state is not FindingState.REFUTED
