"""Rule 12: hedges, duplicates and opposite advice."""

import pytest
from hypothesis import given

from flows.evidence.hedges import demote_hedged, hedge_in
from flows.evidence.merge import dedupe, mark_tensions, merge, overlap, stands
from protocol.ids import StepId
from protocol.report import CitationState, Finding, FindingState, Severity
from tests.flows.trees import finding, findings, place

# ── hedges ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "claim",
    [
        "Theoretically a reader sees half a row.",
        "This could in principle overflow.",
        "A hypothetical caller passes null.",
        "Add a check as defence-in-depth.",
        "in  \n theory it fails",
    ],
)
def test_a_hedge_demotes_once(claim: str) -> None:
    hedged = finding(severity=Severity.CRITICAL, claim=claim, impact="hypothetically bad")
    (after,) = demote_hedged([hedged])
    assert (after.severity, after.state) == (Severity.WARNING, FindingState.DEMOTED)
    assert len(after.notes) == 1
    assert demote_hedged([after]) == [after]


@pytest.mark.parametrize(
    "claim",
    [
        "The comment `should never happen` is wrong: it happens on every restart.",
        'It logs "theoretically unreachable" and goes on.',
        "This is not theoretical: the test above does it.",
        "The theory module imports itself.",
        "The principles are named twice.",
    ],
)
def test_what_is_no_hedge_demotes_nothing(claim: str) -> None:
    assert hedge_in(finding(claim=claim)) is None


def test_security_may_hedge_and_the_unverified_stays_so() -> None:
    claim = "Theoretically an attacker wins."
    secure = finding("SEC-01", claim=claim)
    unverified = finding("CON-01", claim=claim, state=FindingState.UNVERIFIED)
    assert demote_hedged([secure, unverified]) == [secure, unverified]


def test_a_hedging_suggestion_stays_a_suggestion() -> None:
    (after,) = demote_hedged([finding(severity=Severity.SUGGESTION, claim="In theory slow.")])
    assert (after.severity, after.state) == (Severity.SUGGESTION, FindingState.DEMOTED)


# ── duplicates ───────────────────────────────────────────────────────────────────────────────────


def test_the_same_category_on_the_same_lines_is_one_fault() -> None:
    one, other = finding("JUN-01"), finding("CON-01", category=" Correctness ")
    merged, kept = dedupe([one, other])
    assert (merged.state, merged.merged_into) == (FindingState.MERGED, "CON-01")
    assert (kept.state, kept.merged_from) == (FindingState.OPEN, ["JUN-01"])


def test_nearly_the_same_title_on_the_same_lines_is_one_fault() -> None:
    one = finding("CON-01", title="The lock is not released on error", category="locking")
    other = finding("DAT-01", title="the lock is NOT released, on error", category="transactions")
    assert [it.state for it in dedupe([one, other])] == [FindingState.OPEN, FindingState.MERGED]


@pytest.mark.parametrize(
    "other",
    [
        finding("CON-01", citations=[place(start=12, end=13)]),
        finding("CON-01", citations=[place("lib/db.py")]),
        finding("CON-01", category="races"),
        finding("CON-01", citations=[place(state=CitationState.UNVERIFIED)]),
        finding("CON-01", state=FindingState.UNVERIFIED),
        finding("JUN-02"),
        finding("CON-01", action="remove"),
    ],
    ids=["lines", "file", "category", "citation", "state", "same agent", "opposite"],
)
def test_what_differs_is_not_merged(other: Finding) -> None:
    one = finding("JUN-01", action="add")
    assert dedupe([one, other]) == [one, other]


def test_one_agent_repeats_itself_only_with_the_same_title() -> None:
    again = [finding("JUN-01", title="It is so"), finding("JUN-02", title="It is so!")]
    assert [it.state for it in dedupe(again)] == [FindingState.OPEN, FindingState.MERGED]


def test_a_specialist_is_kept_then_the_graver_then_the_earlier() -> None:
    general = finding("JUN-01", severity=Severity.CRITICAL)
    mild = finding("CON-01", severity=Severity.SUGGESTION)
    grave = finding("DAT-01", severity=Severity.WARNING)
    late = finding("TST-01", severity=Severity.WARNING)
    states = {it.id: it.merged_into for it in dedupe([general, mild, grave, late])}
    assert states == {"JUN-01": "DAT-01", "CON-01": "DAT-01", "DAT-01": None, "TST-01": "DAT-01"}


def test_merging_never_lowers_a_severity() -> None:
    general = finding("JUN-01", severity=Severity.CRITICAL)
    special = finding("CON-01", severity=Severity.SUGGESTION)
    _, kept = dedupe([general, special])
    assert kept.severity is Severity.CRITICAL
    assert kept.notes == ["raised from suggestion: JUN-01 says the same"]


# ── opposite advice ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("one", "other"), [("add", "remove"), ("merge", "split"), ("inline", "extract")]
)
def test_opposite_advice_on_the_same_lines_demotes_and_links_both(one: str, other: str) -> None:
    pair = [finding("STR-01", action=one), finding("SEC-01", action=other)]
    after = mark_tensions(pair)
    assert {it.severity for it in after} == {Severity.SUGGESTION}
    assert {it.state for it in after} == {FindingState.DEMOTED}
    assert "SEC-01" in after[0].notes[0]
    assert "STR-01" in after[1].notes[0]


def test_a_finding_with_two_opponents_is_demoted_once() -> None:
    trio = [
        finding("STR-01", action="add", severity=Severity.CRITICAL),
        finding("SEC-01", action="remove"),
        finding("DAT-01", action="remove"),
    ]
    after = mark_tensions(trio)
    assert (after[0].severity, len(after[0].notes)) == (Severity.WARNING, 1)


def test_other_advice_is_no_tension() -> None:
    same = [finding("STR-01", action="add"), finding("SEC-01", action="add")]
    apart = [same[0], finding("SEC-01", action="remove", citations=[place(start=40, end=41)])]
    mixed = [same[0], finding("SEC-01", action="split")]
    gone = [same[0], finding("SEC-01", action="remove", state=FindingState.UNVERIFIED)]
    for pair in (same, apart, mixed, gone):
        assert mark_tensions(pair) == pair


# ── together ─────────────────────────────────────────────────────────────────────────────────────


@given(findings())
def test_merging_loses_no_id_and_every_trace_leads_somewhere(given: list[Finding]) -> None:
    after = merge(given)
    assert [it.id for it in after] == [it.id for it in given]
    by_id = {it.id: it for it in after}
    for it in after:
        assert (it.merged_into is not None) == (it.state is FindingState.MERGED)
        if it.merged_into is not None:
            assert it.id in by_id[it.merged_into].merged_from
            assert by_id[it.merged_into].state is not FindingState.MERGED
        assert all(by_id[other].merged_into == it.id for other in it.merged_from)


@given(findings())
def test_no_two_standing_findings_of_two_steps_say_the_same(given: list[Finding]) -> None:
    kept = [it for it in dedupe(given) if stands(it)]
    for one in kept:
        for other in kept:
            if one.step_id != other.step_id and one.category == other.category:
                assert not overlap(one, other) or {one.action, other.action} == {"add", "remove"}


@given(findings())
def test_merging_is_repeatable_and_keeps_what_the_agents_wrote(given: list[Finding]) -> None:
    after = merge(given)
    assert after == merge(given)
    for before, now in zip(given, after, strict=True):
        assert (before.title, before.claim, before.citations) == (
            now.title,
            now.claim,
            now.citations,
        )
        assert (before == now) or now.notes or now.merged_into or now.merged_from


def test_the_merged_step_is_the_one_that_the_finding_names() -> None:
    copies = [
        finding("JUN-1-01", step_id=StepId("review.general.1")),
        finding("JUN-2-01", step_id=StepId("review.general.2")),
    ]
    assert [it.merged_into for it in merge(copies)] == [None, "JUN-1-01"]
