"""Everything that a report is written from, gathered once from the facts of a run."""

from collections import Counter
from collections.abc import Iterator

from msgspec import Struct

from flows import results
from flows.evidence import references
from flows.evidence.coverage import coverage, delivered
from flows.evidence.merge import stands
from flows.facts import Facts
from flows.ids import prefix_of
from flows.model import Flow
from flows.results import Judged, Reviewed, Triaged
from protocol.plan import FlowPlan, PlannedStep
from protocol.report import (
    Citation,
    Citations,
    CitationState,
    Coverage,
    Finding,
    Severity,
)
from protocol.states import RunStatus

ENOUGH_CITATIONS = 4
"""From this many citations on, a share of them says something of the model."""


class Draft(Struct, frozen=True, kw_only=True):
    flow: Flow
    plan: FlowPlan
    facts: Facts
    status: RunStatus | None
    findings: list[Finding]
    """Every finding, in plan order."""
    reviews: list[tuple[PlannedStep, Reviewed]]
    triage: Triaged | None
    citations: Citations
    coverage: Coverage

    @property
    def delivered(self) -> bool:
        """Whether the run did what its plan had promised; the plan itself may leave files out."""
        return delivered(self.plan, self.facts, self.status)

    @property
    def standing(self) -> list[Finding]:
        """The findings that count, the gravest first, else in plan order."""
        order = list(Severity)
        return sorted(filter(stands, self.findings), key=lambda it: order.index(it.severity))

    @property
    def counts(self) -> dict[str, int]:
        """Findings that stand, by severity; every severity is there."""
        counted = Counter(finding.severity for finding in self.standing)
        return {severity.value: counted[severity] for severity in Severity}

    @property
    def shown_severities(self) -> list[Severity]:
        """What the report of this band shows; the rest is counted."""
        return self.flow.bands[self.plan.band.name].severities

    @property
    def found_citations(self) -> int:
        return self.citations.verified + self.citations.moved + self.citations.ambiguous

    @property
    def unsuitable(self) -> bool:
        """Whether the citations show that the model invents what it cites.

        So it is when none of its citations was found, or fewer than half of four or more.
        """
        total, found = self.citations.total, self.found_citations
        return total > 0 and (found == 0 or (total >= ENOUGH_CITATIONS and 2 * found < total))


def gather(flow: Flow, plan: FlowPlan, facts: Facts, *, status: RunStatus | None) -> Draft:
    """Gather the draft of a run at any stage."""
    reviews = list(results.reviewed_steps(plan, facts))
    judged = results.judged_steps(plan, facts)
    findings = results.settled(plan, facts)
    triage = results.triaged(plan, facts)
    notes = [
        *_step_notes(reviews),
        *_dead_references(reviews, judged, findings),
        *_hidden(findings, flow.bands[plan.band.name].severities, plan),
    ]
    return Draft(
        flow=flow,
        plan=plan,
        facts=facts,
        status=status,
        findings=findings,
        reviews=reviews,
        triage=triage,
        citations=_count(_cited(findings, triage)),
        coverage=coverage(plan, facts, status=status, notes=notes),
    )


def _step_notes(reviews: list[tuple[PlannedStep, Reviewed]]) -> Iterator[str]:
    for step, reviewed in reviews:
        yield from (f"{step.id}: {note}" for note in reviewed.notes)


def _dead_references(
    reviews: list[tuple[PlannedStep, Reviewed]], judged: list[Judged], findings: list[Finding]
) -> list[str]:
    given = [finding.id for _, reviewed in reviews for finding in reviewed.findings]
    summaries = {f"the summary of {step.id}": reviewed.summary for step, reviewed in reviews}
    summaries |= {"the validator's summary": "\n".join(it.summary for it in judged)}
    return references.problems(
        summaries | references.prose_of(findings),
        given=given,
        settled={finding.id for finding in findings},
        ran={prefix_of(finding_id) for finding_id in given}
        | {step.prefix for step, _ in reviews if step.prefix is not None},
    )


def _hidden(findings: list[Finding], shown: list[Severity], plan: FlowPlan) -> Iterator[str]:
    """One note for each severity that the band does not show."""
    for severity in Severity:
        ids = [it.id for it in findings if stands(it) and it.severity is severity]
        if ids and severity not in shown:
            yield (
                f"{len(ids)} of severity {severity.value} not shown in the {plan.band.name.value}"
                f" band: {', '.join(ids)}"
            )


def _cited(findings: list[Finding], triage: Triaged | None) -> Iterator[Citation]:
    """Every citation that agents made in what they delivered."""
    for finding in findings:
        yield from finding.citations
        if finding.verdict is not None:
            yield from finding.verdict.citations
    if triage is not None:
        for area in triage.suspected:
            yield from area.citations


def _count(citations: Iterator[Citation]) -> Citations:
    counted = Counter(citation.state for citation in citations)
    return Citations(
        total=counted.total(), **{state.value: counted[state] for state in CitationState}
    )
