"""The sections of a report: one small function for each renderer that a flow may name.

All text in a section is plain: whoever renders it escapes it. A renderer without content returns an
empty section, which is left out.
"""

from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from flows.counted import number_of
from flows.evidence.coverage import OVER_THE_CAP
from flows.report.answer import files_reviewed, next_command, recommendation
from flows.report.draft import Draft
from protocol.report import (
    Citation,
    Coverage,
    Deferred,
    Finding,
    FindingState,
    Section,
    Severity,
    StepCoverage,
)

SECURITY = "security"
COVERAGE = "coverage"
DEFERRED_NOTICE = "Advisory: not needed today, and not counted."
UNVERIFIED_NOTICE = "None of their citations was found. They count for nothing."


class Content(Struct, frozen=True, kw_only=True):
    """What fills a section."""

    text: str = ""
    items: list[str] = []
    findings: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.text or self.items or self.findings)


def sections(draft: Draft) -> list[Section]:
    """Return the flow's sections that have content, in its order; Coverage is always there."""
    wanted = [(section.id, section.title, section.renderer) for section in draft.flow.sections]
    if COVERAGE not in (renderer for _, _, renderer in wanted):
        wanted.append((COVERAGE, "Coverage", COVERAGE))
    return [
        Section(
            id=name,
            title=title,
            text=content.text,
            items=content.items,
            findings=content.findings,
        )
        for name, title, renderer in wanted
        if (content := RENDERERS[renderer](draft))
    ]


# ── of a review ──────────────────────────────────────────────────────────────────────────────────


def _summary(draft: Draft) -> Content:
    return Content(items=[f"{step.id}: {it.summary}" for step, it in draft.reviews])


def _recommendation(draft: Draft) -> Content:
    return Content(text=recommendation(draft))


def _of_severity(severity: Severity) -> Callable[[Draft], Content]:
    """The findings of one severity, without those that have a section of their own."""

    def content(draft: Draft) -> Content:
        apart = any(section.renderer == SECURITY for section in draft.flow.sections)
        return Content(
            findings=[
                finding.id
                for finding in _shown(draft)
                if finding.severity is severity and not (apart and finding.role == SECURITY)
            ]
        )

    return content


def _security(draft: Draft) -> Content:
    return Content(findings=[it.id for it in _shown(draft) if it.role == SECURITY])


def _shown(draft: Draft) -> list[Finding]:
    return [finding for finding in draft.standing if finding.severity in draft.shown_severities]


def _unverified(draft: Draft) -> Content:
    ids = [it.id for it in draft.findings if it.state is FindingState.UNVERIFIED]
    return Content(text=UNVERIFIED_NOTICE if ids else "", findings=ids)


def _settled(draft: Draft) -> Content:
    gone = (FindingState.MERGED, FindingState.REFUTED)
    return Content(findings=[it.id for it in draft.findings if it.state in gone])


def _deferred(draft: Draft) -> Content:
    items = [_deferred_line(idea) for _, it in draft.reviews for idea in it.deferred]
    return Content(text=DEFERRED_NOTICE if items else "", items=items)


def _deferred_line(idea: Deferred) -> str:
    return f"{idea.title}: {idea.reason} Reopen when: {idea.reopen_when} Seen in: {idea.source}"


def _cleared(draft: Draft) -> Content:
    return Content(
        items=[
            f"{cleared.dimension} ({step.id}): {cleared.note}"
            for step, reviewed in draft.reviews
            for cleared in reviewed.cleared
        ]
    )


# ── of a triage ──────────────────────────────────────────────────────────────────────────────────


def _answer(draft: Draft) -> Content:
    triage = draft.triage
    if triage is None:
        return Content()
    known = {True: "yes", False: "no", None: "the text does not tell"}
    return Content(
        text=triage.summary,
        items=[
            f"Type: {triage.type.value}",
            f"Severity: {triage.severity.value if triage.severity else 'does not apply'}",
            f"Reproducible: {known[triage.reproducible]}",
            f"Recommendation: {recommendation(draft)}",
        ],
    )


def _missing(draft: Draft) -> Content:
    return Content(items=draft.triage.missing if draft.triage else [])


def _suspected(draft: Draft) -> Content:
    areas = draft.triage.suspected if draft.triage else []
    return Content(
        items=[f"{area.area}: {area.why}{_places(area.citations)}" for area in areas],
    )


def _places(citations: list[Citation]) -> str:
    told = ", ".join(f"{place(citation)} {citation.state.value}" for citation in citations)
    return f" ({told})" if told else ""


def _next(draft: Draft) -> Content:
    return Content(text=next_command(draft) or "")


# ── of every report ──────────────────────────────────────────────────────────────────────────────


def _coverage(draft: Draft) -> Content:
    covered = draft.coverage
    scope = covered.scope
    if draft.flow.uses_scope:
        scope = f"{files_reviewed(covered)} reviewed ({scope})"
    return Content(
        text=f"{'Complete' if covered.complete else 'Not complete'}: {scope}.",
        items=[
            *map(_step_line, covered.steps),
            *_left_out(covered),
            *(f"not asked: {role}" for role in covered.omitted_roles),
            *covered.notes,
        ],
    )


def _left_out(covered: Coverage) -> Iterator[str]:
    for why, count in covered.left_out.items():
        line = f"{number_of(count, 'file')} left out: {why}"
        if why == OVER_THE_CAP and covered.left_out_paths:
            more = count - len(covered.left_out_paths)
            named = [*covered.left_out_paths, *([f"{more} more"] if more > 0 else [])]
            line = f"{line}: {', '.join(named)}"
        yield line


def _step_line(step: StepCoverage) -> str:
    extras = [
        *([step.reason] if step.reason not in (None, step.status) else []),
        *(["required"] if step.required else []),
        *(["reused"] if step.reused else []),
        *([f"{number_of(step.denied_tools, 'tool call')} denied"] if step.denied_tools else []),
    ]
    return f"{step.step_id}: {step.status}" + (f" ({', '.join(extras)})" if extras else "")


def place(citation: Citation) -> str:
    """Return a citation as `path:12`, or `path:12-14`."""
    if citation.line_end <= citation.line_start:
        return f"{citation.path}:{citation.line_start}"
    return f"{citation.path}:{citation.line_start}-{citation.line_end}"


RENDERERS: Mapping[str, Callable[[Draft], Content]] = {
    "summary": _summary,
    "recommendation": _recommendation,
    "critical": _of_severity(Severity.CRITICAL),
    "warnings": _of_severity(Severity.WARNING),
    "suggestions": _of_severity(Severity.SUGGESTION),
    "security": _security,
    "unverified": _unverified,
    "settled": _settled,
    "deferred": _deferred,
    "cleared": _cleared,
    "coverage": _coverage,
    "answer": _answer,
    "missing": _missing,
    "suspected": _suspected,
    "next": _next,
}
"""By the name that a flow's section gives as `renderer`."""
