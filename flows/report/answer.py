"""The answer of a report: its headline, its recommendation, and the one command to run next.

All three are computed. No agent writes a word of them.
"""

from typing import assert_never

from flows import canonical, engine
from flows.counted import number_of
from flows.evidence.coverage import missing, why
from flows.outputs import IssueType
from flows.report.draft import Draft
from flows.results import Triaged
from protocol.commands import Band
from protocol.report import Coverage, Severity
from protocol.states import RunStatus

DEMO_LABEL = "Scripted demo model, not a review"
MAX_NAMED = 3
MAX_PATHS = 5

_ENDED_SHORT = {RunStatus.CANCELLED: "Cancelled", RunStatus.FAILED: "Failed"}
_FAULTS = (IssueType.BUG, IssueType.REGRESSION, IssueType.PERFORMANCE, IssueType.SECURITY)


# ── headline ─────────────────────────────────────────────────────────────────────────────────────


def headline(draft: Draft) -> str:
    """Return the answer in one sentence.

    A run that is not proven read-only, a model whose citations fail, a run that ended short and the
    demo model are named before anything else.
    """
    label = f"{DEMO_LABEL}. " if draft.plan.demo else ""
    culprits = engine.unproven(draft.plan, draft.facts)
    if culprits:
        named = ", ".join(step.id for step in culprits)
        return f"{label}Failed: read-only could not be proven ({named})"
    if draft.unsuitable:
        found, total = draft.found_citations, draft.citations.total
        return f"{label}Model unsuitable: {found} of {number_of(total, 'citation')} verified"
    if draft.delivered:
        return label + _answer(draft)
    lead = _ENDED_SHORT.get(draft.status, "Partial") if draft.status else "Partial"
    return f"{label}{lead}: {_lowered(_answer(draft))}{_not_delivered(draft)}"


def _answer(draft: Draft) -> str:
    if draft.triage is not None:
        return _triage_answer(draft.triage)
    if not draft.reviews:
        return "Nothing was looked at"
    where = f" in {files_reviewed(draft.coverage)}" if draft.flow.uses_scope else ""
    if draft.standing:
        return _counted(draft) + where
    if draft.findings:
        # Without them the run would look clean.
        return f"No finding stands{where}; {len(draft.findings)} set apart"
    return f"Nothing found{where}"


def _counted(draft: Draft) -> str:
    counts = draft.counts
    plural = {Severity.WARNING: "warning", Severity.SUGGESTION: "suggestion"}
    parts = [
        number_of(counts[severity], plural[severity])
        if severity in plural
        else f"{counts[severity]} critical"
        for severity in Severity
        if counts[severity]
    ]
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def _triage_answer(triage: Triaged) -> str:
    kind = triage.type.value.capitalize()
    severity = f" ({triage.severity.value})" if triage.severity else ""
    places = number_of(len(triage.suspected), "place") + " to look"
    return f"{kind}{severity}: {places}, {number_of(len(triage.missing), 'thing')} missing"


def _not_delivered(draft: Draft) -> str:
    steps = missing(draft.plan, draft.facts)
    named = [f"{step.id} ({why(draft.facts.steps[step.id])})" for step in steps[:MAX_NAMED]]
    if len(steps) > MAX_NAMED:
        named.append(f"{len(steps) - MAX_NAMED} more")
    return f"; not delivered: {', '.join(named)}" if named else ""


# ── recommendation ───────────────────────────────────────────────────────────────────────────────


def recommendation(draft: Draft) -> str:
    """Return what follows from the gravest finding that stands, or why nothing does."""
    if engine.unproven(draft.plan, draft.facts):
        return (
            "Rely on nothing in this report: an agent wrote where it must not, or could have. The"
            " section Read-only says which one; find out how before anything is run again."
        )
    if draft.unsuitable:
        return "None: too little of what this model cites exists. Run it again with another model."
    if draft.triage is not None:
        return _triage_recommendation(draft.triage)
    partial = "" if draft.coverage.complete else " This holds only for what was covered."
    if draft.standing:
        return _by_gravity(draft) + partial
    if draft.delivered:
        return "Nothing was found that has to change." + partial
    return "None: the run did not cover what it was to cover."


def _by_gravity(draft: Draft) -> str:
    gravest = draft.standing[0].severity
    count = draft.counts[gravest]
    match gravest:
        case Severity.CRITICAL:
            return f"Resolve {_these(count, 'critical finding')} first."
        case Severity.WARNING:
            return f"Settle {_these(count, 'warning')}."
        case Severity.SUGGESTION:
            return f"Nothing has to change; weigh {_these(count, 'suggestion')}."
    assert_never(gravest)


def _triage_recommendation(triage: Triaged) -> str:
    if triage.missing:
        return "Ask for what is missing first."
    if _found_paths(triage):
        return "Begin at the first place under suspicion."
    return "Nothing in the tree points to a place yet."


# ── the next command ─────────────────────────────────────────────────────────────────────────────


def next_command(draft: Draft) -> str | None:
    """Return the one command to suggest, or None: it would be the one that was just run, or
    nothing should be run before somebody has looked."""
    if engine.unproven(draft.plan, draft.facts):
        return None
    if draft.triage is not None and not draft.unsuitable:
        command = _after_triage(draft.triage, draft.flow.next)
    elif draft.unsuitable or not draft.delivered:
        command = draft.flow.next.get("partial")
    else:
        command = draft.flow.next.get("findings" if draft.standing else "clean")
    return None if command == draft.plan.command else command


def _after_triage(triage: Triaged, commands: dict[str, str]) -> str | None:
    """By type and severity: a fault is looked at as deeply as it is grave, the rest briefly.

    Without a place in the code there is nothing to look at.
    """
    paths = _found_paths(triage)
    if not paths:
        return commands.get("partial")
    review = commands.get("findings", "").partition(" ")[0]
    targets = " ".join(canonical.argument(path) for path in paths[:MAX_PATHS])
    return f"{review} {_depth(triage).value} {targets}" if review else None


def _depth(triage: Triaged) -> Band:
    if triage.type not in _FAULTS:
        return Band.SMALL
    if triage.type is IssueType.SECURITY or triage.severity is Severity.CRITICAL:
        return Band.LARGE
    return Band.SMALL if triage.severity is Severity.SUGGESTION else Band.MEDIUM


def _found_paths(triage: Triaged) -> list[str]:
    return list(
        dict.fromkeys(
            citation.path
            for area in triage.suspected
            for citation in area.citations
            if citation.state.found
        )
    )


def files_reviewed(covered: Coverage) -> str:
    """Return how many files were reviewed, as `3 files`, or `60 of 66 files` of those in scope."""
    if covered.files_reviewed == covered.files_in_scope:
        return number_of(covered.files_reviewed, "file")
    return f"{covered.files_reviewed} of {number_of(covered.files_in_scope, 'file')}"


def _these(count: int, noun: str) -> str:
    return f"the {noun}" if count == 1 else f"the {count} {noun}s"


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
