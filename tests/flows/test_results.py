"""What becomes of a step's result: answers that are checked, code steps that are computed."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given

from flows import checks
from flows.evidence.schema import EvidenceError, VerdictError
from flows.facts import Facts, StepFact
from flows.results import FUNCTIONS, Accepted, accept, compute, settled, submitted
from protocol.ids import StepId
from protocol.plan import FlowPlan, OnFailure, PlannedStep
from protocol.report import Finding, FindingState, Severity
from protocol.states import StepStatus
from tests.flows.plans import caps, plan_of, step
from tests.flows.trees import (
    ROOT,
    TREE,
    finding,
    findings,
    raw_answer,
    raw_citation,
    raw_finding,
)

GENERAL = step("review.general", role="generalist", prefix="JUN", dimensions=["correctness"])
SECURITY = step("review.security", role="security", prefix="SEC")
MERGE = step("merge", GENERAL.id, SECURITY.id, function="merge", on_failure=OnFailure.FAIL)
VALIDATE = step("validate", "merge", role="validator", output="verdicts")
RECONCILE = step("reconcile", "merge", "validate", function="reconcile")
REPORT = step("report", "reconcile", function="report")
TRIAGE = step("triage", role="triage", output="triage")
PLAN = plan_of(GENERAL, SECURITY, MERGE, VALIDATE, RECONCILE, REPORT)


def facts(plan: FlowPlan = PLAN, **outputs: Any) -> Facts:
    """Facts in which the steps with an output (by the last word of their id) are completed."""
    steps: dict[StepId, StepFact] = {}
    for it in plan.steps:
        output = outputs.get(it.id.rpartition(".")[2])
        status = StepStatus.COMPLETED if output is not None else StepStatus.PENDING
        steps[it.id] = StepFact(status=status, output=output)
    return Facts(steps=steps)


def take(
    by: PlannedStep, raw: Mapping[str, Any], known: Facts | None = None, plan: FlowPlan = PLAN
) -> Accepted:
    return accept(plan, by, raw, known or facts(plan), TREE, root=ROOT)


def json_of(accepted: Accepted) -> Any:
    """What the store gives back: the output must be JSON types through and through."""
    return msgspec.json.decode(msgspec.json.encode(accepted.output))


def verdict(id: str, kind: str = "confirmed", **changes: Any) -> dict[str, Any]:
    return {"finding_id": id, "verdict": kind, "reason": "looked", "citations": []} | changes


def verdicts(*given: dict[str, Any]) -> dict[str, Any]:
    return {"verdicts": list(given), "summary": "done", "end": "complete"}


# ── agent steps ──────────────────────────────────────────────────────────────────────────────────


def test_findings_are_stored_and_shown() -> None:
    idea = {"title": "A cache", "reason": "r", "reopen_when": "p99 above 2 s", "source": "s"}
    accepted = take(
        GENERAL,
        raw_answer(
            raw_finding(),
            cleared=[{"dimension": "clarity", "note": "fine"}],
            deferred=[idea, idea | {"reopen_when": "later"}],
        ),
    )
    assert accepted.output == json_of(accepted)
    assert [it.id for it in accepted.findings] == ["JUN-01"]
    assert accepted.output["findings"][0]["id"] == "JUN-01"
    assert accepted.output["cleared"] == [
        {"dimension": "clarity", "note": "fine", "step_id": "review.general"}
    ]
    assert len(accepted.output["deferred"]) == 1
    assert accepted.output["notes"] == [
        "deferred idea left out (nothing concrete that would reopen it): A cache"
    ]
    assert set(accepted.output) == {
        *("summary", "findings", "cleared", "deferred", "negative", "searched", "cut", "notes")
    }


def test_a_negative_answer_is_stored_with_what_was_searched() -> None:
    accepted = take(SECURITY, raw_answer())
    assert accepted.findings == []
    assert (accepted.output["negative"], accepted.output["searched"]) == (True, ["every file"])


def test_what_is_cut_and_what_is_not_said_is_noted() -> None:
    plan = plan_of(GENERAL, caps=caps(findings_per_step=1))
    titles = ("one thing", "two things", "three things")
    raw = raw_answer(*(raw_finding(title=it, category="style") for it in titles))
    accepted = take(GENERAL, raw, plan=plan)
    assert accepted.output["cut"] == 2
    assert accepted.output["notes"] == [
        "beyond the cap, left out: 2 findings",
        "says nothing of correctness",
    ]


def test_what_was_not_looked_at_is_not_clean() -> None:
    unseen = {
        "dimension": "correctness",
        "note": "The demo has no plain rule for this dimension; nothing was looked for.",
    }
    seen = {"dimension": "clarity", "note": "Names were read; a null is not checked for twice."}
    raw = raw_answer(cleared=[unseen, seen])
    accepted = take(GENERAL, raw)
    assert [it["dimension"] for it in accepted.output["cleared"]] == ["clarity"]
    assert accepted.output["notes"] == ["did not look at correctness"]


def test_a_wrong_answer_goes_back_to_the_agent() -> None:
    with pytest.raises(EvidenceError, match="findings"):
        take(GENERAL, raw_answer(negative=False))


def test_triage_keeps_its_fields_and_checks_its_citations() -> None:
    raw = {
        "type": "bug",
        "summary": "s",
        "severity": "critical",
        "reproducible": None,
        "missing": ["the version"],
        "suspected": [
            {"area": "closing", "why": "w", "citations": [raw_citation(), raw_citation("q" * 20)]}
        ],
        "end": "complete",
    }
    accepted = take(TRIAGE, raw, plan=plan_of(TRIAGE))
    assert accepted.output == json_of(accepted)
    states = [it.get("state") for it in accepted.output["suspected"][0]["citations"]]
    assert states == ["verified", None]  # None: unverified is what a citation is by default
    assert accepted.output["severity"] == "critical"
    assert accepted.findings == []


# ── from reviewers to the report ─────────────────────────────────────────────────────────────────


def reviewed() -> Facts:
    """Two reviewers said the same of one place; one of them invented something besides."""
    invented = raw_finding(title="Invented", citations=[raw_citation("no such line anywhere")])
    general = take(GENERAL, raw_answer(raw_finding(), invented))
    secure = take(SECURITY, raw_answer(raw_finding(severity="critical")))
    return facts(general=general.output, security=secure.output)


def merged() -> Facts:
    known = reviewed()
    accepted = compute(PLAN, MERGE, known)
    return Facts(
        steps={
            **known.steps,
            MERGE.id: StepFact(status=StepStatus.COMPLETED, output=json_of(accepted)),
        }
    )


def test_merge_settles_duplicates_and_says_what_is_to_be_judged() -> None:
    accepted = compute(PLAN, MERGE, reviewed())
    assert accepted.output == json_of(accepted)
    states = {it["id"]: it.get("state", "open") for it in accepted.output["findings"]}
    assert states == {"JUN-01": "merged", "JUN-02": "unverified", "SEC-01": "open"}
    assert accepted.output["corrective"] == ["SEC-01"]
    assert [it.id for it in accepted.findings] == ["JUN-01", "SEC-01"]


def test_merge_of_nothing_has_nothing_to_judge() -> None:
    accepted = compute(PLAN, MERGE, facts())
    assert (accepted.output["findings"], accepted.output["corrective"]) == ([], [])


def test_nothing_is_submitted_before_the_merge() -> None:
    assert submitted(PLAN, reviewed()) == []
    assert [it.id for it in submitted(PLAN, merged())] == ["SEC-01"]


def test_verdicts_have_to_match_what_was_submitted() -> None:
    accepted = take(VALIDATE, verdicts(verdict("SEC-01")), merged())
    assert accepted.output == json_of(accepted)
    assert accepted.output["verdicts"][0]["kind"] == "confirmed"
    for wrong in ((), (verdict("JUN-01"),), (verdict("SEC-01"), verdict("JUN-02"))):
        with pytest.raises(EvidenceError):
            take(VALIDATE, verdicts(*wrong), merged())
    with pytest.raises(VerdictError, match="SEC-01"):
        take(VALIDATE, verdicts(verdict("SEC-02")), merged())


def reconciled(*given: dict[str, Any]) -> Accepted:
    known = merged()
    validated = take(VALIDATE, verdicts(*given), known) if given else None
    status = StepStatus.COMPLETED if validated else StepStatus.FAILED
    fact = StepFact(status=status, output=validated.output if validated else None)
    known = Facts(steps={**known.steps, VALIDATE.id: fact})
    return compute(PLAN, RECONCILE, known)


def test_reconcile_applies_the_verdicts_and_shows_what_changed() -> None:
    refutation = verdict("SEC-01", "refuted", citations=[raw_citation()])
    accepted = reconciled(refutation)
    assert accepted.output == json_of(accepted)
    (shown,) = accepted.findings
    assert (shown.id, shown.state) == ("SEC-01", FindingState.REFUTED)
    assert [it["id"] for it in accepted.output["findings"]] == ["JUN-01", "JUN-02", "SEC-01"]


def test_a_refutation_with_an_invented_citation_only_demotes() -> None:
    invented = verdict("SEC-01", "refuted", citations=[raw_citation("nothing of the kind")])
    (shown,) = reconciled(invented).findings
    assert (shown.state, shown.severity) == (FindingState.DEMOTED, Severity.WARNING)


def test_without_a_validator_findings_stay_as_they_were_merged() -> None:
    accepted = reconciled()
    assert accepted.findings == []
    assert accepted.output["findings"] == merged().steps[MERGE.id].output["findings"]


def test_settled_goes_as_far_as_the_run_did() -> None:
    by_agents = settled(PLAN, reviewed())
    assert {it.state for it in by_agents} == {FindingState.OPEN, FindingState.UNVERIFIED}
    assert FindingState.MERGED in {it.state for it in settled(PLAN, merged())}
    output = reconciled(verdict("SEC-01")).output
    done = facts(reconcile=output)
    assert FindingState.CONFIRMED in {it.state for it in settled(PLAN, done)}


def test_the_report_step_computes_nothing() -> None:
    assert compute(PLAN, REPORT, facts()) == Accepted(output={})


def test_every_function_that_a_flow_may_name_is_there() -> None:
    assert set(FUNCTIONS) == checks.FUNCTIONS


@given(findings())
def test_merge_and_reconcile_keep_every_id_in_plan_order(given: list[Finding]) -> None:
    output = take(GENERAL, raw_answer()).output | {"findings": msgspec.to_builtins(given)}
    known = facts(general=output)
    merging = compute(PLAN, MERGE, known)
    known = facts(general=output, merge=json_of(merging))
    ids = [it.id for it in given]
    assert [it["id"] for it in merging.output["findings"]] == ids
    assert [it["id"] for it in compute(PLAN, RECONCILE, known).output["findings"]] == ids
    assert {it.id for it in submitted(PLAN, known)} == set(merging.output["corrective"])


def test_a_finding_survives_the_store() -> None:
    whole = finding(merged_from=["JUN-02"], notes=["n"], introduced=False)
    assert msgspec.convert(msgspec.to_builtins(whole), Finding) == whole
