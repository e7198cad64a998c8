"""What becomes of a step's result: an agent's answer is checked, a code step is computed.

The Structs here are what is stored as `StepFact.output`, as JSON types. Later steps and the report
read nothing else, so a run that is resumed or repeated goes on from the same values.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, assert_never

import msgspec
from msgspec import Struct

from flows.counted import number_of
from flows.evidence import deferred, dimensions, findings, verdicts
from flows.evidence.citations import Checker
from flows.evidence.merge import merge, stands
from flows.evidence.schema import parse_output
from flows.facts import Facts, TreeView
from flows.outputs import FindingsOutput, IssueType, SuspectedArea, TriageOutput, VerdictsOutput
from protocol.plan import FlowPlan, PlannedStep
from protocol.report import Citation, Cleared, Deferred, Finding, Severity, Verdict
from protocol.states import StepStatus

T = TypeVar("T", bound=Struct)


class Accepted(Struct, frozen=True, kw_only=True):
    """A step's result as it is stored, and the findings to show because of it."""

    output: dict[str, Any]
    findings: list[Finding] = []


# ── what is stored ───────────────────────────────────────────────────────────────────────────────


class Reviewed(Struct, frozen=True, kw_only=True):
    """Of a step with the output `findings`."""

    summary: str
    findings: list[Finding]
    cleared: list[Cleared]
    deferred: list[Deferred]
    negative: bool
    searched: list[str]
    cut: int
    """Findings beyond the cap."""
    notes: list[str]


class Judged(Struct, frozen=True, kw_only=True):
    """Of a step with the output `verdicts`."""

    verdicts: list[Verdict]
    summary: str


class Suspected(Struct, frozen=True, kw_only=True):
    area: str
    why: str
    citations: list[Citation]


class Triaged(Struct, frozen=True, kw_only=True):
    """Of a step with the output `triage`."""

    type: IssueType
    summary: str
    severity: Severity | None
    reproducible: bool | None
    missing: list[str]
    suspected: list[Suspected]


class Merged(Struct, frozen=True, kw_only=True):
    """Of the code step `merge`."""

    findings: list[Finding]
    corrective: list[str]
    """Ids of the findings that stand: what a validator has to judge."""
    cleared: list[Cleared]
    deferred: list[Deferred]
    notes: list[str]


class Reconciled(Struct, frozen=True, kw_only=True):
    """Of the code step `reconcile`."""

    findings: list[Finding]


# ── agent steps ──────────────────────────────────────────────────────────────────────────────────


def accept(
    plan: FlowPlan, step: PlannedStep, raw: object, facts: Facts, tree: TreeView, *, root: str
) -> Accepted:
    """Check the answer of an agent step against every rule of evidence.

    `raw` is the answer as JSON types; `root` is where the agent saw the tree. Raises EvidenceError
    with a sentence for the agent when the answer cannot be taken as it is.
    """
    assert step.output is not None  # checks.py lets no other flow through
    answer = parse_output(step.output, raw)
    checker = Checker(tree, root=root)
    match answer:
        case FindingsOutput():
            reviewed = _reviewed(answer, step, plan=plan, checker=checker)
            return Accepted(output=_stored(reviewed), findings=reviewed.findings)
        case VerdictsOutput():
            ids = [finding.id for finding in submitted(plan, facts)]
            judged = verdicts.judge(answer.verdicts, ids, checker)
            return Accepted(output=_stored(Judged(verdicts=judged, summary=answer.summary)))
        case TriageOutput():
            return Accepted(output=_stored(_triaged(answer, checker)))
    assert_never(answer)


def _reviewed(
    answer: FindingsOutput, step: PlannedStep, *, plan: FlowPlan, checker: Checker
) -> Reviewed:
    collected = findings.collect(answer.findings, step, plan=plan, checker=checker)
    put_off, notes = deferred.collect(answer.deferred, step.id)
    silent = dimensions.silent(answer, step.dimensions)
    if collected.cut:
        notes.append(f"beyond the cap, left out: {number_of(collected.cut, 'finding')}")
    unseen = [it.dimension for it in answer.cleared if not dimensions.seen(it)]
    if unseen:
        notes.append(f"did not look at {', '.join(unseen)}")
    if silent:
        notes.append(f"says nothing of {', '.join(silent)}")
    return Reviewed(
        summary=answer.summary,
        findings=collected.findings,
        cleared=[
            Cleared(dimension=it.dimension, note=it.note, step_id=step.id)
            for it in answer.cleared
            if dimensions.seen(it)
        ],
        deferred=put_off,
        negative=answer.negative,
        searched=answer.searched,
        cut=collected.cut,
        notes=notes,
    )


def _triaged(answer: TriageOutput, checker: Checker) -> Triaged:
    return Triaged(
        type=answer.type,
        summary=answer.summary,
        severity=answer.severity,
        reproducible=answer.reproducible,
        missing=answer.missing,
        suspected=[_suspected(area, checker) for area in answer.suspected],
    )


def _suspected(area: SuspectedArea, checker: Checker) -> Suspected:
    citations = [checker.check(cited) for cited in area.citations]
    return Suspected(area=area.area, why=area.why, citations=citations)


def submitted(plan: FlowPlan, facts: Facts) -> list[Finding]:
    """Return the findings that a validator is to judge; none before they are merged."""
    merged = _of_function(plan, facts, "merge", Merged)
    if merged is None:
        return []
    corrective = set(merged.corrective)
    return [finding for finding in merged.findings if finding.id in corrective]


# ── code steps ───────────────────────────────────────────────────────────────────────────────────


def compute(plan: FlowPlan, step: PlannedStep, facts: Facts) -> Accepted:
    """Compute a code step. Only the findings that it changed are to be shown again.

    Raises KeyError for a function that is not in FUNCTIONS: `checks.py` lets no such flow through.
    """
    return FUNCTIONS[step.function or ""](plan, facts)


def _merge(plan: FlowPlan, facts: Facts) -> Accepted:
    reviews = list(reviewed_steps(plan, facts))
    given = [finding for _, reviewed in reviews for finding in reviewed.findings]
    merged = Merged(
        findings=merge(given),
        corrective=[],
        cleared=[it for _, reviewed in reviews for it in reviewed.cleared],
        deferred=[it for _, reviewed in reviews for it in reviewed.deferred],
        notes=[f"{step.id}: {note}" for step, reviewed in reviews for note in reviewed.notes],
    )
    corrective = [finding.id for finding in merged.findings if stands(finding)]
    merged = msgspec.structs.replace(merged, corrective=corrective)
    return Accepted(output=_stored(merged), findings=_changed(given, merged.findings))


def _reconcile(plan: FlowPlan, facts: Facts) -> Accepted:
    merged = _of_function(plan, facts, "merge", Merged)
    before = merged.findings if merged is not None else []
    given = [verdict for judged in judged_steps(plan, facts) for verdict in judged.verdicts]
    after = verdicts.reconcile(before, given)
    return Accepted(output=_stored(Reconciled(findings=after)), findings=_changed(before, after))


def _report(_plan: FlowPlan, _facts: Facts) -> Accepted:
    """Marks that all is ready: `report.build` makes the report from the facts when the run ends."""
    return Accepted(output={})


FUNCTIONS: Mapping[str, Callable[[FlowPlan, Facts], Accepted]] = {
    "merge": _merge,
    "reconcile": _reconcile,
    "report": _report,
}
"""By the name that a flow's code step gives as `function`."""


def _changed(before: list[Finding], after: list[Finding]) -> list[Finding]:
    return [new for old, new in zip(before, after, strict=True) if new != old]


# ── reading what is stored ───────────────────────────────────────────────────────────────────────


def settled(plan: FlowPlan, facts: Facts) -> list[Finding]:
    """Return every finding as far as the run got with it, in plan order."""
    reconciled = _of_function(plan, facts, "reconcile", Reconciled)
    if reconciled is not None:
        return reconciled.findings
    merged = _of_function(plan, facts, "merge", Merged)
    if merged is not None:
        return merged.findings
    return [it for _, reviewed in reviewed_steps(plan, facts) for it in reviewed.findings]


def reviewed_steps(plan: FlowPlan, facts: Facts) -> Iterator[tuple[PlannedStep, Reviewed]]:
    """Each reviewing step that delivered, with its result, in plan order."""
    return _of_output(plan, facts, "findings", Reviewed)


def judged_steps(plan: FlowPlan, facts: Facts) -> list[Judged]:
    """The results of the validators that delivered, in plan order."""
    return [judged for _, judged in _of_output(plan, facts, "verdicts", Judged)]


def triaged(plan: FlowPlan, facts: Facts) -> Triaged | None:
    """The result of the triage step, if there is one and it delivered."""
    return next((result for _, result in _of_output(plan, facts, "triage", Triaged)), None)


def _of_output(
    plan: FlowPlan, facts: Facts, output: str, kind: type[T]
) -> Iterator[tuple[PlannedStep, T]]:
    for step in plan.steps:
        fact = facts.steps[step.id]
        if step.output == output and fact.status is StepStatus.COMPLETED:
            yield step, msgspec.convert(fact.output, kind)


def _of_function(plan: FlowPlan, facts: Facts, function: str, kind: type[T]) -> T | None:
    for step in plan.steps:
        fact = facts.steps[step.id]
        if step.function == function and fact.status is StepStatus.COMPLETED:
            return msgspec.convert(fact.output, kind)
    return None


def _stored(result: Struct) -> dict[str, Any]:
    stored: dict[str, Any] = msgspec.to_builtins(result)
    return stored
