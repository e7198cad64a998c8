"""Rule 12, second part: duplicates become one finding, opposite advice is shown as such.

Both come before validation, so that a validator judges each fault once.
"""

import re
from collections.abc import Sequence
from itertools import combinations

import msgspec

from flows.evidence.demotion import demote, noted
from flows.evidence.hedges import demote_hedged
from flows.outputs import Action
from protocol.report import Finding, FindingState, Severity

GENERALISTS = frozenset({"generalist"})
"""Roles that give way to any other role that says the same."""

SAME_TITLE = 0.8
"""The share of words that two titles must have in common to say the same."""

_OPPOSITES = {
    frozenset({Action.ADD.value, Action.REMOVE.value}),
    frozenset({Action.SPLIT.value, Action.MERGE.value}),
    frozenset({Action.INLINE.value, Action.EXTRACT.value}),
}
_GRAVITY = {severity: rank for rank, severity in enumerate(Severity)}
_GONE = (FindingState.MERGED, FindingState.REFUTED, FindingState.UNVERIFIED)


def merge(findings: Sequence[Finding]) -> list[Finding]:
    """Weigh and join findings that are given, and returned, in plan order. No id is lost."""
    return mark_tensions(dedupe(demote_hedged(findings)))


def stands(finding: Finding) -> bool:
    """Whether the finding counts: its place was found, nothing refuted or replaced it."""
    return finding.state not in _GONE


def overlap(one: Finding, other: Finding) -> bool:
    """Whether the two have found citations with a line in common."""
    return any(
        a.path == b.path and a.line_start <= b.line_end and b.line_start <= a.line_end
        for a in one.citations
        for b in other.citations
        if a.state.found and b.state.found
    )


# ── duplicates ───────────────────────────────────────────────────────────────────────────────────


def dedupe(findings: Sequence[Finding]) -> list[Finding]:
    """Merge each finding into the best one that says the same; both stay listed.

    Best is a specialist's before a generalist's, then the higher severity, then plan order. The
    kept one takes the highest severity of those it stands for.
    """
    order = sorted(range(len(findings)), key=lambda place: (*_claim(findings[place]), place))
    heirs: dict[str, str] = {}
    kept: list[Finding] = []
    for finding in (findings[place] for place in order):
        heir = next((other for other in kept if same_fault(finding, other)), None)
        if heir is None:
            kept.append(finding)
        else:
            heirs[finding.id] = heir.id
    return [_settled(finding, findings, heirs) for finding in findings]


def same_fault(one: Finding, other: Finding) -> bool:
    """Whether two findings on overlapping lines say the same.

    Across steps the same category suffices. One agent that gives two findings means two, unless
    even their titles are alike. Opposite advice is never the same.
    """
    if not (stands(one) and stands(other) and overlap(one, other)) or opposite(one, other):
        return False
    same_category = one.category.strip().casefold() == other.category.strip().casefold()
    return (same_category and one.step_id != other.step_id) or _alike(one.title, other.title)


def _claim(finding: Finding) -> tuple[bool, int]:
    return finding.role in GENERALISTS, _GRAVITY[finding.severity]


def _alike(one: str, other: str) -> bool:
    words, others = (set(re.findall(r"\w+", title.casefold())) for title in (one, other))
    return bool(words) and len(words & others) >= SAME_TITLE * len(words | others)


def _settled(finding: Finding, findings: Sequence[Finding], heirs: dict[str, str]) -> Finding:
    if finding.id in heirs:
        return msgspec.structs.replace(
            finding, state=FindingState.MERGED, merged_into=heirs[finding.id]
        )
    merged = [other for other in findings if heirs.get(other.id) == finding.id]
    if not merged:
        return finding
    gravest = min(merged, key=lambda other: _GRAVITY[other.severity])
    if _GRAVITY[gravest.severity] < _GRAVITY[finding.severity]:
        note = f"raised from {finding.severity.value}: {gravest.id} says the same"
        raised = msgspec.structs.replace(finding, severity=gravest.severity, state=gravest.state)
        finding = noted(raised, note)
    return msgspec.structs.replace(finding, merged_from=[other.id for other in merged])


# ── opposite advice ──────────────────────────────────────────────────────────────────────────────


def opposite(one: Finding, other: Finding) -> bool:
    """Whether the two want opposite things done."""
    return frozenset({one.action, other.action}) in _OPPOSITES


def mark_tensions(findings: Sequence[Finding]) -> list[Finding]:
    """Demote, once, each finding that another one on the same lines contradicts, and link them."""
    against: dict[str, list[Finding]] = {}
    for one, other in combinations((it for it in findings if stands(it)), 2):
        if opposite(one, other) and overlap(one, other):
            against.setdefault(one.id, []).append(other)
            against.setdefault(other.id, []).append(one)
    return [
        demote(finding, _contradiction(against[finding.id])) if finding.id in against else finding
        for finding in findings
    ]


def _contradiction(others: Sequence[Finding]) -> str:
    told = ", ".join(f"{other.id} ({other.action})" for other in others)
    return f"opposite advice on the same lines by {told}"
