"""What the receipts of a run prove, and how a person is told."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.engine import READ_ONLY_UNPROVEN
from flows.facts import StepFact
from flows.report import markdown
from flows.report.build import build, same
from flows.report.meta import STALE, is_stale, read_only_of, read_only_section
from flows.report.proof import Attempted, attempts_of, gaps, read_only, stale, violations
from protocol.ids import StepId
from protocol.report import ReadOnly, ReadOnlyVerdict, Report
from protocol.resources import Containment, Level, Proof, Receipt, SelfTest
from protocol.states import RunStatus, StepStatus
from tests.flows.plans import REVIEW, plan_of, step
from tests.flows.test_report_build import PLAN, facts

FAILED = SelfTest.FAILED_AS_IT_MUST


def receipt(**changes: Any) -> Receipt:
    """Of an attempt that is proven in every respect."""
    fields: dict[str, Any] = {
        "agent": "qwen",
        "agent_version": "0.24.4",
        "mode": "plan",
        "tools": ["glob", "grep_search", "read_file", "structured_output"],
        "denials": [],
        "host": "127.0.0.1:8080",
        "contained": Containment.BUBBLEWRAP,
        "levels": list(Level),
        "write_probe": FAILED,
        "network_probe": FAILED,
        "process_probe": FAILED,
        "tree_before": "t",
        "tree_after": "t",
        "repository_before": "r",
        "repository_after": "r",
        "ended_at": "2026-01-01T12:00:00.000Z",
        "proven": Proof.YES,
    }
    return Receipt(**(fields | changes))


BARE: dict[str, Any] = {
    "contained": Containment.NONE,
    "levels": [],
    "write_probe": SelfTest.NOT_RUN,
    "network_probe": SelfTest.NOT_RUN,
    "process_probe": SelfTest.NOT_RUN,
    "proven": Proof.NO,
}


def attempts(*given: Receipt | None, reason: str | None = None) -> list[Attempted]:
    return [
        Attempted(step_id=StepId(f"s{n}"), attempt=1, receipt=it, reason=reason)
        for n, it in enumerate(given, 1)
    ]


# ── one receipt ──────────────────────────────────────────────────────────────────────────────────


def test_a_whole_receipt_has_no_gap() -> None:
    assert gaps(receipt()) == []
    told = read_only(attempts(receipt(), receipt()))
    assert told.verdict is ReadOnlyVerdict.PROVEN
    assert told.line == ("Read-only: proven for all 2 attempts (filesystem, network, processes).")
    assert (told.proven, told.attempts, told.gaps, told.violations) == (2, 2, [], [])
    assert told.ended_at == "2026-01-01T12:00:00.000Z"


@pytest.mark.parametrize(
    ("changes", "gap"),
    [
        (BARE, "it was not contained by the operating system"),
        ({"levels": [Level.FILESYSTEM]}, "not contained: network, processes"),
        ({"write_probe": SelfTest.NOT_RUN}, "not tried from inside: write"),
        ({"network_probe": SelfTest.NOT_RUN}, "not tried from inside: network"),
        ({"process_probe": SelfTest.NOT_RUN}, "not tried from inside: process"),
        ({"proven": Proof.NO}, "its receipt does not say that it is proven"),
    ],
)
def test_each_missing_part_is_a_gap(changes: dict[str, Any], gap: str) -> None:
    """A receipt that claims `proven` without the parts is not believed."""
    told = read_only(attempts(receipt(), receipt(**{"proven": Proof.YES, **changes})))
    assert told.verdict is ReadOnlyVerdict.NOT_PROVEN
    assert told.proven == 1
    assert told.gaps == [f"s2: {gap}"]
    assert told.line.startswith("Read-only: not proven, 1 of 2 attempts are. S2: ")


@pytest.mark.parametrize(
    ("changes", "violation"),
    [
        ({"tree_after": "u"}, "the copy changed while it ran"),
        ({"write_probe": SelfTest.SUCCEEDED}, "it could write into the copy"),
        ({"network_probe": SelfTest.SUCCEEDED}, "it could reach a port of the host"),
        ({"process_probe": SelfTest.SUCCEEDED}, "it could see processes of the host"),
    ],
)
def test_what_must_not_be_is_a_violation(changes: dict[str, Any], violation: str) -> None:
    assert violations(receipt(**changes)) == [violation]
    told = read_only(attempts(receipt(), receipt(**changes)))
    assert told.verdict is ReadOnlyVerdict.VIOLATED
    assert told.violations == [f"s2: {violation}"]
    assert "VIOLATED" in told.line


def test_a_copy_that_changed_uncontained_is_a_violation_too() -> None:
    told = read_only(attempts(receipt(**BARE, tree_after="u")))
    assert told.verdict is ReadOnlyVerdict.VIOLATED


def test_a_copy_that_changed_between_two_attempts_is_a_violation() -> None:
    told = read_only(attempts(receipt(), receipt(tree_before="u", tree_after="u")))
    assert told.violations == ["the copy changed between two attempts"]
    assert told.copies == ["t", "u"]


def test_an_attempt_without_a_receipt_is_not_proven() -> None:
    told = read_only(attempts(receipt(), None, reason="cancelled"))
    assert told.verdict is ReadOnlyVerdict.NOT_PROVEN
    assert told.gaps == ["s2: it left no receipt (cancelled)"]
    lost = read_only(attempts(None, reason=READ_ONLY_UNPROVEN))
    assert lost.verdict is ReadOnlyVerdict.VIOLATED, "its reason says enough"


def test_a_run_without_an_agent_proves_nothing_and_claims_nothing() -> None:
    told = read_only([], reused=2)
    assert told.verdict is ReadOnlyVerdict.NO_AGENT
    assert told.gaps == [
        "2 results were reused: the receipts are in the report of the run that made them"
    ]


def test_what_all_attempts_lack_is_said_once() -> None:
    told = read_only(attempts(*[receipt(**BARE)] * 5))
    assert told.gaps == ["every attempt: it was not contained by the operating system"]
    assert told.line == (
        "Read-only: not proven, 0 of 5 attempts are. Every attempt: it was not contained by the"
        " operating system."
    )


def test_code_steps_need_no_receipt() -> None:
    plan = plan_of(step("s1"), step("s2", function="merge"))
    assert [it.step_id for it in attempts_of(plan, attempts(receipt(), None))] == ["s1"]


RECEIPTS = st.builds(
    receipt,
    contained=st.sampled_from(Containment),
    levels=st.sets(st.sampled_from(Level)).map(sorted),
    write_probe=st.sampled_from(SelfTest),
    network_probe=st.sampled_from(SelfTest),
    process_probe=st.sampled_from(SelfTest),
    tree_after=st.sampled_from("tu"),
    proven=st.sampled_from(Proof),
)


@given(st.lists(RECEIPTS | st.none(), max_size=4))
def test_only_whole_receipts_make_a_run_proven(given_receipts: list[Receipt | None]) -> None:
    told = read_only(attempts(*given_receipts))
    whole = [it for it in given_receipts if it == receipt()]
    assert (told.verdict is ReadOnlyVerdict.PROVEN) == (
        bool(whole) and len(whole) == len(given_receipts)
    )
    assert told.proven == len(whole)
    assert bool(told.violations) == (told.verdict is ReadOnlyVerdict.VIOLATED)
    assert msgspec.convert(msgspec.to_builtins(told), ReadOnly) == told


# ── stale ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([("r", "r"), ("r", "r")], False),
        ([("r", "s")], True),
        ([("r", "r"), ("s", "s")], True),
        ([(None, None)], False),
        ([(None, None), (None, "r")], True),
        ([], False),
    ],
)
def test_a_repository_that_changed_makes_the_report_stale(
    seen: list[tuple[str | None, str | None]], expected: bool
) -> None:
    given_receipts = [receipt(repository_before=a, repository_after=b) for a, b in seen]
    assert stale(attempts(*given_receipts)) is expected
    assert read_only(attempts(*given_receipts)).violations == [], "people go on working"


# ── in the report ────────────────────────────────────────────────────────────────────────────────


def report(*given_receipts: Receipt | None, reason: str | None = None, **changes: Any) -> Report:
    agents = attempts(*given_receipts, reason=reason)
    meta = {"read_only": msgspec.to_builtins(read_only(agents)), "stale": stale(agents)}
    return build(REVIEW, PLAN, facts(**changes), meta=meta, status=RunStatus.COMPLETED)


def test_the_report_tells_it_and_equal_runs_stay_equal() -> None:
    proven, bare = report(receipt()), report(receipt(**BARE, repository_after="s"))
    assert same(proven, bare)
    assert "## Read-only" in markdown.render(proven)
    text = markdown.render(bare)
    for words in (
        "Read-only: not proven, 0 of 1 attempt is.",
        "- Contained, of 1 attempt: none",
        "- Tried from inside: write not run 1, network not run 1, process not run 1",
        "- The copy: t, the same before and after",
        "- Calls refused: none",
        "- Not proven: every attempt: it was not contained by the operating system",
    ):
        assert words in text.replace("\\", "")
    assert "Read-only: proven" in markdown.summary(proven)


def test_what_was_refused_is_counted_and_is_only_text() -> None:
    evil = "<script>`write_file`\n# x"
    told = read_only(attempts(receipt(denials=["edit", "edit", evil])))
    assert told.denials == {evil: 1, "edit": 2}
    assert "edit 2" in "".join(read_only_section(told).items)
    text = markdown.render(report(receipt(denials=[evil])))
    assert "<script>" not in text.replace("\\<script", "")
    assert "\n# x" not in text


def test_stale_stands_at_the_top() -> None:
    text = markdown.render(report(receipt(repository_after="s")))
    assert text.splitlines()[2] == f"> **{STALE}**"
    assert STALE in markdown.summary(report(receipt(repository_after="s")))
    fresh = report(receipt())
    assert not is_stale(fresh)
    assert STALE not in markdown.render(fresh)


def test_a_violation_leads_the_report() -> None:
    culprit = StepFact(status=StepStatus.FAILED, reason=READ_ONLY_UNPROVEN)
    of = report(receipt(tree_after="u"), security=culprit)
    assert of.headline == "Failed: read-only could not be proven (review.security)"
    assert of.recommendation.startswith("Rely on nothing in this report")
    assert of.next is None
    assert not of.complete
    text = markdown.render(of)
    assert text.index("## Read-only") < text.index("## Coverage")
    assert "The copy CHANGED: t → u" in text
    harmless = markdown.render(report(receipt()))
    assert harmless.index("## Read-only") > harmless.index("## Coverage")


def test_a_report_of_an_older_version_has_no_such_section() -> None:
    old = build(REVIEW, PLAN, facts(), meta={}, status=RunStatus.COMPLETED)
    assert read_only_of(old) is None
    assert "Read-only" not in markdown.render(old)
