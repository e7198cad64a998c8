"""From an agent's own findings to numbered findings with checked citations."""

from collections.abc import Sequence
from typing import NamedTuple

from flows.evidence.citations import Checker
from flows.evidence.demotion import demote, noted
from flows.ids import finding_id
from flows.outputs import AgentFinding
from protocol.plan import FlowPlan, PlannedStep, Scope
from protocol.report import Citation, Finding, FindingState, Severity

DIFF_KINDS = frozenset({"uncommitted", "branch", "head"})
"""The kinds of scope in which a change is under review."""

_GRAVITY = {severity: rank for rank, severity in enumerate(Severity)}


class Collected(NamedTuple):
    findings: list[Finding]
    cut: int
    """Findings beyond the cap of the band."""


def collect(
    answered: Sequence[AgentFinding], step: PlannedStep, *, plan: FlowPlan, checker: Checker
) -> Collected:
    """Number and check what one step found, in the order of its answer.

    Of more findings than `plan.caps.findings_per_step` the gravest are kept. A finding of which no
    citation is found is unverified, and never critical.
    """
    kept = _gravest(answered, plan.caps.findings_per_step)
    findings = [
        _finding(finding, step, ordinal=ordinal, scope=plan.scope, checker=checker)
        for ordinal, finding in enumerate(kept, start=1)
    ]
    return Collected(findings, cut=len(answered) - len(kept))


def _gravest(answered: Sequence[AgentFinding], cap: int) -> list[AgentFinding]:
    """At most `cap` findings, those of higher severity first in line, in their own order."""
    by_gravity = sorted(range(len(answered)), key=lambda place: _GRAVITY[answered[place].severity])
    return [answered[place] for place in sorted(by_gravity[:cap])]


def _finding(
    answered: AgentFinding,
    step: PlannedStep,
    *,
    ordinal: int,
    scope: Scope,
    checker: Checker,
) -> Finding:
    assert step.prefix is not None  # checks.py lets no other flow through
    assert step.role is not None  # checks.py lets no other flow through
    citations = [checker.check(cited) for cited in answered.citations]
    found = [citation for citation in citations if citation.state.found]
    finding = Finding(
        id=finding_id(step.prefix, step.index, ordinal),
        step_id=step.id,
        role=step.role,
        title=answered.title,
        claim=answered.claim,
        category=answered.category,
        severity=answered.severity,
        confidence=answered.confidence,
        impact=answered.impact,
        citations=citations,
        state=FindingState.OPEN if found else FindingState.UNVERIFIED,
        fix=answered.fix,
        action=answered.action,
        introduced=introduced(found, scope),
        alias=answered.alias,
    )
    if not found and finding.severity is Severity.CRITICAL:
        finding = demote(finding, "none of its citations was found")
    if found and step.files and not {citation.path for citation in found} & set(step.files):
        finding = noted(finding, "cites only files outside the slice of its step")
    return finding


def introduced(found: Sequence[Citation], scope: Scope) -> bool | None:
    """Say whether one of the found citations has a line that the change added.

    None when no change is under review, and when there is no found citation to tell by.
    """
    if scope.kind not in DIFF_KINDS or not found:
        return None
    added = {file.path: file.added for file in scope.files}
    return any(
        lines.start <= citation.line_end and citation.line_start <= lines.end
        for citation in found
        for lines in added.get(citation.path, [])
    )
