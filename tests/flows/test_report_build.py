"""The report of a run at every stage: the answer first, and never clean without cause."""

from collections.abc import Sequence
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import checks, slash
from flows.counted import number_of
from flows.facts import Facts, StepFact
from flows.model import Flow, Section
from flows.outputs import IssueType
from flows.report.answer import DEMO_LABEL
from flows.report.build import build, json_schema, same, to_json
from flows.report.sections import RENDERERS
from flows.results import Merged, Reviewed, Suspected, Triaged
from protocol.plan import FlowPlan, OnFailure, Scope, ScopeFile
from protocol.report import (
    Citation,
    CitationState,
    Cleared,
    Deferred,
    Finding,
    FindingState,
    Report,
    Severity,
    Verdict,
    VerdictKind,
)
from protocol.states import RunStatus, StepStatus
from tests.flows.plans import CATALOGUE, ENDPOINT, REVIEW, TRIAGE, plan_of, step
from tests.flows.trees import finding, findings, place

GENERAL = step(
    "review.general", role="generalist", prefix="JUN", files=["app/db.py"], required=True
)
SECURITY = step("review.security", role="security", prefix="SEC", files=["app/db.py"])
STEPS = (
    GENERAL,
    SECURITY,
    step("merge", "review.general", "review.security", function="merge", when="always()"),
)
SCOPE = Scope(
    kind="paths",
    description="app",
    files=[ScopeFile(path="app/db.py", lines=12)],
    total_files=1,
)
PLAN = plan_of(*STEPS, scope=SCOPE)
DONE = RunStatus.COMPLETED
SCHEMA = jsonschema.Draft202012Validator(json_schema())
INVENTED = place(state=CitationState.UNVERIFIED)


def review(*given: Finding, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "summary": "Read all of it.",
        "findings": list(given),
        "cleared": [],
        "deferred": [],
        "negative": not given,
        "searched": ["all"],
        "cut": 0,
        "notes": [],
    }
    stored: dict[str, Any] = msgspec.to_builtins(Reviewed(**(fields | changes)))
    return stored


def merged(given: Sequence[Finding]) -> dict[str, Any]:
    corrective = [it.id for it in given]
    stored: dict[str, Any] = msgspec.to_builtins(
        Merged(findings=list(given), corrective=corrective, cleared=[], deferred=[], notes=[])
    )
    return stored


def completed(output: Any) -> StepFact:
    return StepFact(status=StepStatus.COMPLETED, output=output)


def facts(*given: Finding, **changes: StepFact) -> Facts:
    """A run that delivered all, with these findings; `changes` by the last word of a step's id."""
    by_general = [it for it in given if it.role != "security"]
    by_security = [it for it in given if it.role == "security"]
    known = {
        "general": completed(review(*by_general)),
        "security": completed(review(*by_security)),
        "merge": completed(merged(given)),
    } | changes
    return Facts(steps={it.id: known[it.id.rpartition(".")[2]] for it in PLAN.steps})


def report(
    *given: Finding,
    status: RunStatus | None = DONE,
    plan: FlowPlan = PLAN,
    flow: Flow = REVIEW,
    **changes: StepFact,
) -> Report:
    return build(flow, plan, facts(*given, **changes), meta={}, status=status)


def section(of: Report, name: str) -> Any:
    return next((it for it in of.sections if it.id == name), None)


FAILED = StepFact(status=StepStatus.FAILED, reason="timeout")

# ── the answer ───────────────────────────────────────────────────────────────────────────────────


def test_the_headline_counts_what_stands() -> None:
    told = report(
        finding("JUN-01", severity=Severity.CRITICAL),
        finding("JUN-02"),
        finding("JUN-03"),
        finding("JUN-04", state=FindingState.REFUTED),
        finding("JUN-05", state=FindingState.MERGED, merged_into="JUN-01"),
        finding("JUN-06", state=FindingState.UNVERIFIED),
    )
    assert told.headline == "1 critical and 2 warnings in 1 file"
    assert told.counts == {"critical": 1, "warning": 2, "suggestion": 0}
    assert told.recommendation == "Resolve the critical finding first."
    assert told.complete
    assert told.next == "/code-review medium"


@pytest.mark.parametrize(
    ("severity", "words"),
    [("critical", "Resolve"), ("warning", "Settle"), ("suggestion", "Nothing has to change")],
)
def test_the_recommendation_follows_the_gravest(severity: str, words: str) -> None:
    told = report(finding(severity=Severity.SUGGESTION), finding(severity=Severity(severity)))
    assert told.recommendation.startswith(words)


def test_a_complete_run_without_findings_is_clean() -> None:
    told = report()
    assert told.headline == "Nothing found in 1 file"
    assert told.recommendation == "Nothing was found that has to change."
    assert [it.id for it in told.sections] == ["summary", "recommendation", "coverage"]


@pytest.mark.parametrize("given", [(), (finding(),)])
def test_files_over_the_cap_are_said_wherever_the_report_could_claim_them(
    given: tuple[Finding, ...],
) -> None:
    scope = msgspec.structs.replace(SCOPE, total_files=4, left_out=["app/a.py", "app/z.py"])
    told = report(*given, plan=msgspec.structs.replace(PLAN, scope=scope))
    assert not told.complete
    assert told.headline.endswith(" in 1 of 4 files")
    assert told.recommendation.endswith("This holds only for what was covered.")
    covered = section(told, "coverage")
    assert covered.text == "Not complete: 1 of 4 files reviewed (app)."
    assert "3 files left out: over the cap of the band: app/a.py, app/z.py, 1 more" in covered.items
    # All agents delivered, and a smaller review is no way on.
    assert told.next == "/code-review medium"


def test_what_was_set_apart_keeps_a_run_from_reading_as_clean() -> None:
    told = report(finding(state=FindingState.REFUTED))
    assert told.headline == "No finding stands in 1 file; 1 set apart"


@pytest.mark.parametrize("status", [RunStatus.PARTIAL, RunStatus.COMPLETED, None])
def test_without_a_required_step_no_run_is_clean(status: RunStatus | None) -> None:
    told = report(status=status, general=FAILED)
    assert not told.complete
    assert told.headline == (
        "Partial: nothing found in 1 file; not delivered: review.general (timeout)"
    )
    assert told.recommendation.startswith("None:")
    assert told.next == "/code-review small"


def test_what_was_found_by_a_partial_run_is_still_told() -> None:
    told = report(finding("SEC-01", severity=Severity.CRITICAL), general=FAILED)
    assert told.headline.startswith("Partial: 1 critical in 1 file; not delivered: review.general")
    assert told.recommendation.endswith("This holds only for what was covered.")


@pytest.mark.parametrize(
    ("status", "lead"), [(RunStatus.FAILED, "Failed: "), (RunStatus.CANCELLED, "Cancelled: ")]
)
def test_a_run_that_ended_short_says_so_first(status: RunStatus, lead: str) -> None:
    stopped = StepFact(status=StepStatus.CANCELLED, reason="cancelled")
    told = report(status=status, general=stopped, security=stopped, merge=stopped)
    assert told.headline == (
        f"{lead}nothing was looked at; not delivered: review.general (cancelled),"
        " review.security (cancelled), merge (cancelled)"
    )
    assert section(told, "coverage") is not None


def test_many_missing_steps_are_counted() -> None:
    steps = [step(f"review.s{n}", role="r", prefix="JUN") for n in range(6)]
    known = Facts(steps={it.id: FAILED for it in steps})
    told = build(REVIEW, plan_of(*steps), known, meta={}, status=RunStatus.FAILED)
    assert told.headline.endswith("review.s2 (timeout), 3 more")


# ── a model that invents ─────────────────────────────────────────────────────────────────────────


def cited(found: int, invented: int) -> Finding:
    citations = [place()] * found + [INVENTED] * invented
    state = FindingState.OPEN if found else FindingState.UNVERIFIED
    return finding(citations=citations, state=state)


@pytest.mark.parametrize(("found", "invented"), [(3, 16), (0, 1), (0, 3), (1, 3)])
def test_a_model_whose_citations_fail_is_named_first(found: int, invented: int) -> None:
    told = report(cited(found, invented))
    total = found + invented
    assert told.headline == f"Model unsuitable: {found} of {number_of(total, 'citation')} verified"
    assert told.recommendation.startswith("None:")
    assert told.next == "/code-review small"


@pytest.mark.parametrize(("found", "invented"), [(2, 2), (1, 2), (1, 0), (19, 0)])
def test_a_model_that_mostly_cites_well_is_not(found: int, invented: int) -> None:
    assert "unsuitable" not in report(cited(found, invented)).headline


def test_citations_are_counted_by_state_with_those_of_verdicts() -> None:
    states = [place(state=it) for it in CitationState]
    verdict = Verdict(
        finding_id="JUN-01", kind=VerdictKind.CONFIRMED, reason="r", citations=[place()]
    )
    told = report(finding(citations=states, verdict=verdict)).citations
    assert (told.total, told.verified, told.moved, told.ambiguous) == (6, 2, 1, 1)
    assert (told.unverified, told.invalid) == (1, 1)


# ── the demo model ───────────────────────────────────────────────────────────────────────────────

DEMO = msgspec.structs.replace(PLAN, endpoint=msgspec.structs.replace(ENDPOINT, demo=True))


@pytest.mark.parametrize("given", [[], [finding()], [cited(0, 4)]])
def test_what_the_demo_model_wrote_is_labelled(given: list[Finding]) -> None:
    told = report(*given, plan=DEMO)
    assert told.demo
    assert told.headline.startswith(DEMO_LABEL)
    assert not report(*given).headline.startswith(DEMO_LABEL)


# ── sections ─────────────────────────────────────────────────────────────────────────────────────


def test_each_finding_is_in_the_section_of_what_became_of_it() -> None:
    told = report(
        finding("JUN-01", severity=Severity.CRITICAL),
        finding("JUN-02"),
        finding("SEC-01", severity=Severity.CRITICAL),
        finding("JUN-03", state=FindingState.UNVERIFIED, citations=[INVENTED]),
        finding("JUN-04", state=FindingState.REFUTED),
        finding("JUN-05", state=FindingState.MERGED, merged_into="JUN-01"),
    )
    shown = {it.id: it.findings for it in told.sections if it.findings}
    assert shown == {
        "critical": ["JUN-01"],
        "warnings": ["JUN-02"],
        "security": ["SEC-01"],
        "unverified": ["JUN-03"],
        "settled": ["JUN-04", "JUN-05"],
    }


def test_a_flow_without_a_security_section_shows_security_by_severity() -> None:
    left = [it for it in REVIEW.sections if it.id != "security"]
    told = report(finding("SEC-01"), flow=msgspec.structs.replace(REVIEW, sections=left))
    assert section(told, "warnings").findings == ["SEC-01"]


def test_what_the_band_does_not_show_is_counted_and_named() -> None:
    told = report(finding("JUN-01", severity=Severity.SUGGESTION), finding("JUN-02"))
    assert section(told, "suggestions") is None
    assert told.counts["suggestion"] == 1
    note = "1 of severity suggestion not shown in the small band: JUN-01"
    assert told.coverage.notes == [note]


def test_deferred_and_cleared_are_told_and_never_counted() -> None:
    idea = Deferred(
        title="A cache",
        reason="One caller.",
        reopen_when="two callers",
        source="s",
        step_id=GENERAL.id,
    )
    clear = Cleared(dimension="races", note="One thread.", step_id=GENERAL.id)
    told = report(general=completed(review(deferred=[idea], cleared=[clear])))
    assert (told.deferred, told.cleared) == ([idea], [clear])
    assert section(told, "deferred").items[0].startswith("A cache: One caller.")
    assert section(told, "cleared").items == ["races (review.general): One thread."]
    assert sum(told.counts.values()) == 0


def test_coverage_is_there_even_if_the_flow_forgot_it() -> None:
    told = report(flow=msgspec.structs.replace(REVIEW, sections=[]))
    assert [it.id for it in told.sections] == ["coverage"]


def test_coverage_names_every_step_and_every_note() -> None:
    told = report(
        general=StepFact(
            status=StepStatus.COMPLETED,
            output=review(notes=["2 findings beyond the cap were left out"]),
            reused=True,
            denied_tools=2,
        ),
        security=FAILED,
    )
    items = section(told, "coverage").items
    assert section(told, "coverage").text == "Not complete: 1 file reviewed (app)."
    assert "review.general: completed (required, reused, 2 tool calls denied)" in items
    assert "review.security: failed (timeout)" in items
    assert "review.general: 2 findings beyond the cap were left out" in items


def test_one_of_a_thing_is_one_and_no_word_is_said_twice() -> None:
    done = StepFact(status=StepStatus.COMPLETED, output=review(), denied_tools=1)
    stopped = StepFact(status=StepStatus.CANCELLED, reason="cancelled")
    items = section(report(general=done, security=stopped), "coverage").items
    assert "review.general: completed (required, 1 tool call denied)" in items
    assert "review.security: cancelled" in items


def test_a_dead_reference_is_a_note() -> None:
    told = report(finding(claim="As CON-07 says."))
    assert "JUN-01 cites CON-07, of a role that did not run" in told.coverage.notes


def test_every_renderer_that_a_flow_may_name_is_there() -> None:
    assert set(RENDERERS) == checks.RENDERERS


@pytest.mark.parametrize("renderer", sorted(RENDERERS))
def test_every_renderer_works_for_every_flow(renderer: str) -> None:
    alone = [Section(id="x", title="X", renderer=renderer)]
    assert report(finding(), flow=msgspec.structs.replace(REVIEW, sections=alone)).sections
    assert report(security=FAILED, flow=msgspec.structs.replace(TRIAGE, sections=alone)).sections


# ── triage ───────────────────────────────────────────────────────────────────────────────────────

TRIAGE_PLAN = plan_of(
    step("triage", role="triage", output="triage", required=True),
    flow="issue-triage",
    title="Issue triage",
)


def triage(
    kind: IssueType = IssueType.BUG,
    severity: Severity | None = None,
    *citations: Citation,
    missing: Sequence[str] = (),
) -> Report:
    areas = [Suspected(area="Closing", why="It closes.", citations=list(citations))]
    result = Triaged(
        type=kind,
        summary="It fails.",
        severity=severity,
        reproducible=None,
        missing=list(missing),
        suspected=areas if citations else [],
    )
    known = Facts(steps={TRIAGE_PLAN.steps[0].id: completed(msgspec.to_builtins(result))})
    return build(TRIAGE, TRIAGE_PLAN, known, meta={}, status=DONE)


def test_a_triage_answers_with_type_places_and_what_is_missing() -> None:
    told = triage(IssueType.BUG, Severity.CRITICAL, place(), missing=["The version."])
    assert told.headline == "Bug (critical): 1 place to look, 1 thing missing"
    assert [it.id for it in told.sections] == ["answer", "missing", "suspected", "next", "coverage"]
    assert section(told, "answer").text == "It fails."
    assert section(told, "suspected").items == ["Closing: It closes. (app/db.py:10-11 verified)"]
    assert told.recommendation == "Ask for what is missing first."


@pytest.mark.parametrize(
    ("kind", "severity", "command"),
    [
        (IssueType.BUG, Severity.CRITICAL, "/code-review large app/db.py"),
        (IssueType.REGRESSION, Severity.WARNING, "/code-review medium app/db.py"),
        (IssueType.PERFORMANCE, Severity.SUGGESTION, "/code-review small app/db.py"),
        (IssueType.BUG, None, "/code-review medium app/db.py"),
        (IssueType.SECURITY, Severity.SUGGESTION, "/code-review large app/db.py"),
        (IssueType.QUESTION, None, "/code-review small app/db.py"),
        (IssueType.FEATURE, Severity.CRITICAL, "/code-review small app/db.py"),
    ],
)
def test_the_next_command_follows_from_type_and_severity(
    kind: IssueType, severity: Severity | None, command: str
) -> None:
    told = triage(kind, severity, place(), place())
    assert told.next == command
    assert section(told, "next").text == command


def test_without_a_place_in_the_code_there_is_nothing_to_look_at_next() -> None:
    assert triage().next is None
    assert triage(IssueType.BUG, None, place(), INVENTED).next is not None
    assert triage().recommendation == "Nothing in the tree points to a place yet."


def test_a_triage_that_invents_its_places_shows_the_model_as_unsuitable() -> None:
    told = triage(IssueType.BUG, None, INVENTED)
    assert told.headline == "Model unsuitable: 0 of 1 citation verified"
    assert told.next is None


def test_a_triage_that_did_not_deliver_is_partial() -> None:
    known = Facts(steps={TRIAGE_PLAN.steps[0].id: FAILED})
    told = build(TRIAGE, TRIAGE_PLAN, known, meta={}, status=RunStatus.FAILED)
    assert told.headline == "Failed: nothing was looked at; not delivered: triage (timeout)"


@pytest.mark.parametrize("path", ['my files/a "b" \\\\c.py', "-x.py", '"x".py', "small"])
def test_the_next_command_can_be_run_whatever_the_path(path: str) -> None:
    command = triage(IssueType.BUG, None, place(path)).next
    assert command is not None
    parsed = slash.parse(command, CATALOGUE)
    assert isinstance(parsed, slash.Invocation)
    assert parsed.inputs == {"paths": [path]}


# ── the same report ──────────────────────────────────────────────────────────────────────────────


@given(findings())
def test_equal_facts_give_equal_bytes(given: list[Finding]) -> None:
    one = report(*given)
    assert to_json(one) == to_json(report(*given))
    assert msgspec.json.decode(to_json(one), type=Report) == one


def test_reports_that_differ_in_meta_alone_are_the_same() -> None:
    known = facts(finding())
    one = build(REVIEW, PLAN, known, meta={"ended_at": "1"}, status=DONE)
    other = build(REVIEW, PLAN, known, meta={"ended_at": "2"}, status=DONE)
    assert one != other
    assert same(one, other)
    assert not same(one, report())


@given(findings(), st.sampled_from([None, *RunStatus]))
def test_a_report_validates_against_its_schema(
    given: list[Finding], status: RunStatus | None
) -> None:
    told = report(*given, status=status)
    assert SCHEMA.is_valid(msgspec.json.decode(to_json(told)))
    assert not SCHEMA.is_valid(msgspec.to_builtins(told) | {"headline": None})


@given(
    findings(),
    st.lists(st.sampled_from(StepStatus), min_size=3, max_size=3),
    st.sampled_from([None, *RunStatus]),
    st.sampled_from(list(OnFailure)),
)
def test_any_stage_of_any_run_has_a_report(
    given: list[Finding],
    statuses: list[StepStatus],
    status: RunStatus | None,
    on_failure: OnFailure,
) -> None:
    steps = [msgspec.structs.replace(it, on_failure=on_failure) for it in PLAN.steps]
    plan = msgspec.structs.replace(PLAN, steps=steps)
    full = facts(*given)
    known = {
        id: fact if wanted is StepStatus.COMPLETED else StepFact(status=wanted, reason="r")
        for (id, fact), wanted in zip(full.steps.items(), statuses, strict=True)
    }
    told = build(REVIEW, plan, Facts(steps=known), meta={}, status=status)
    assert section(told, "coverage") is not None
    if statuses[0] is not StepStatus.COMPLETED:
        assert not told.complete
        assert told.headline.startswith(("Partial", "Failed", "Cancelled", "Model unsuitable"))
