"""A report as GitHub-flavoured Markdown, from the report alone."""

from collections.abc import Iterable, Iterator

from flows.counted import number_of
from flows.report.answer import DEMO_LABEL
from flows.report.escape import code, fence, inline, prose
from flows.report.meta import STALE, is_stale, leads, read_only_of, read_only_section
from flows.report.sections import place
from protocol.report import (
    Citation,
    Finding,
    FindingState,
    Report,
    Section,
    Severity,
)

MAX_SUMMARY_BYTES = 4_096
MAX_HEADLINE = 400
"""Characters of a headline in a summary."""

_SHORT_STATES = (FindingState.MERGED, FindingState.REFUTED)
_GRAVITY = {severity: rank for rank, severity in enumerate(Severity)}


def render(report: Report) -> str:
    """Return the whole report.

    Every finding has its id in it; text of agents is shown as it is and is never markup.
    """
    return "\n\n".join(_blocks(report)) + "\n"


def summary(report: Report) -> str:
    """Return at most 4,096 bytes: the answer, then as many findings as there is room for."""
    head = [
        *_label(report),
        f"**{inline(report.headline[:MAX_HEADLINE])}**",
        "",
        inline(report.recommendation[:MAX_HEADLINE]),
        "",
        *([inline(STALE), ""] if is_stale(report) else []),
        *([inline(told.line[:MAX_HEADLINE]), ""] if (told := read_only_of(report)) else []),
    ]
    lines = [_summary_line(finding) for finding in _listed(report)]
    kept = _fitting(head, lines)
    if len(kept) < len(lines):
        kept.append(f"- and {len(lines) - len(kept)} more in the report")
    return "\n".join([*head, *kept]).rstrip() + "\n"


# ── the parts ────────────────────────────────────────────────────────────────────────────────────


def _blocks(report: Report) -> Iterator[str]:
    yield from _label(report)
    yield f"# {inline(report.headline) or 'Report'}"
    if is_stale(report):
        yield f"> **{inline(STALE)}**"
    yield _meta_line(report)
    yield from _read_only(report, first=True)
    yield from _table(report)
    findings = {finding.id: finding for finding in report.findings}
    told: set[str] = set()
    for section in report.sections:
        yield from _section(section, findings, told)
    yield from _untold(report, told)
    yield from _read_only(report, first=False)
    if report.next is not None and report.next not in {it.text for it in report.sections}:
        yield f"Next: {code(report.next)}"


def _label(report: Report) -> Iterator[str]:
    """What the scripted demo model wrote says so in its first line, the headline or this one."""
    if report.demo and not report.headline.startswith(DEMO_LABEL):
        yield f"> **{DEMO_LABEL}.**\n"


def _meta_line(report: Report) -> str:
    found = report.citations.verified + report.citations.moved + report.citations.ambiguous
    return " · ".join(
        [
            f"{inline(report.title)} ({code(report.flow)}, {inline(report.band)})",
            f"scope: {inline(report.scope)}",
            f"tree {code(report.tree_id[:12])}",
            f"model {code(f'{report.model}@{report.endpoint}')}",
            *(
                f"{inline(role)}: {code(f'{own.model}@{own.host}')}"
                for role, own in report.role_endpoints.items()
            ),
            f"{found} of {number_of(report.citations.total, 'citation')} found",
        ]
    )


def _read_only(report: Report, *, first: bool) -> Iterator[str]:
    """What the receipts prove: at the end, and before everything else when it was violated."""
    told = read_only_of(report)
    if told is not None and leads(told) is first:
        yield from _section(read_only_section(told), {}, set())


def _table(report: Report) -> Iterator[str]:
    listed = _listed(report)
    if listed:
        rows = ["| Id | Severity | Finding | Where | State |", "| --- | --- | --- | --- | --- |"]
        yield "\n".join([*rows, *map(_row, listed)])


def _listed(report: Report) -> list[Finding]:
    """The findings that some section tells in full and that count, the gravest first."""
    shown = {finding_id for section in report.sections for finding_id in section.findings}
    counted = [
        finding
        for finding in report.findings
        if finding.id in shown and finding.state not in (*_SHORT_STATES, FindingState.UNVERIFIED)
    ]
    return sorted(counted, key=lambda finding: _GRAVITY[finding.severity])


def _row(finding: Finding) -> str:
    where = code(place(finding.citations[0]), cell=True) if finding.citations else ""
    cells = [
        inline(finding.id, cell=True),
        finding.severity.value,
        inline(finding.title, cell=True),
        where,
        finding.state.value,
    ]
    return f"| {' | '.join(cells)} |"


def _section(section: Section, findings: dict[str, Finding], told: set[str]) -> Iterator[str]:
    yield f"## {inline(section.title)}"
    if section.text:
        yield prose(section.text)
    if section.items:
        yield "\n".join(f"- {inline(item)}" for item in section.items)
    for finding_id in section.findings:
        finding = findings.get(finding_id)
        if finding is not None and finding_id not in told:
            told.add(finding_id)
            yield from _finding(finding)


def _untold(report: Report, told: set[str]) -> Iterator[str]:
    """A report never drops a finding in silence: what no section shows is named."""
    untold = [finding for finding in report.findings if finding.id not in told]
    if untold:
        yield "## Not shown"
        yield "\n".join(_short(finding) for finding in untold)


# ── one finding ──────────────────────────────────────────────────────────────────────────────────


def _finding(finding: Finding) -> Iterator[str]:
    if finding.state in _SHORT_STATES:
        yield _short(finding)
        return
    yield f"### {inline(finding.id)} · {inline(finding.title)}"
    yield _facts_line(finding)
    yield prose(finding.claim)
    for citation in finding.citations:
        yield from _citation(citation)
    yield f"**Impact:** {prose(finding.impact)}"
    if finding.fix is not None:
        yield f"**Fix:** {prose(finding.fix)}"
    yield from _history(finding)


def _short(finding: Finding) -> str:
    into = f" into {inline(finding.merged_into)}" if finding.merged_into is not None else ""
    reason = f": {inline(finding.verdict.reason)}" if finding.verdict is not None else ""
    head = f"- {inline(finding.id)} ({finding.severity.value}, {finding.state.value}{into})"
    return f"{head} {inline(finding.title)}{reason}"


def _facts_line(finding: Finding) -> str:
    parts = [
        finding.severity.value,
        finding.state.value,
        inline(finding.category),
        f"confidence {finding.confidence.value}",
    ]
    if finding.introduced is not None:
        parts.append("introduced by this change" if finding.introduced else "was there before")
    return f"*{' · '.join(parts)}*"


def _citation(citation: Citation) -> Iterator[str]:
    note = f", {inline(citation.note)}" if citation.note else ""
    where = f"{code(place(citation))} ({citation.state.value}{note})"
    if not citation.state.found:
        where = f"{where}; what the agent quoted:"
    yield where
    yield fence(citation.quote, info=citation.path.rpartition(".")[2])


def _history(finding: Finding) -> Iterator[str]:
    """What became of it on its way here."""
    lines = [inline(note) for note in finding.notes]
    if finding.merged_from:
        lines.append(f"also reported as {inline(', '.join(finding.merged_from))}")
    if finding.verdict is not None:
        verdict = finding.verdict
        cited = ", ".join(
            code(place(citation)) for citation in verdict.citations if citation.state.found
        )
        told = f"validator: {verdict.kind.value}: {inline(verdict.reason)}"
        lines.append(f"{told} ({cited})" if cited else told)
    if lines:
        yield "\n".join(f"- {line}" for line in lines)


# ── summary ──────────────────────────────────────────────────────────────────────────────────────


def _summary_line(finding: Finding) -> str:
    where = f" {code(place(finding.citations[0]))}" if finding.citations else ""
    return f"- {inline(finding.id)} {finding.severity.value}: {inline(finding.title)}{where}"


def _fitting(head: Iterable[str], lines: Iterable[str]) -> list[str]:
    """The first lines that fit behind the head, with room for a word on the rest."""
    room = MAX_SUMMARY_BYTES - 64 - sum(len(line.encode()) + 1 for line in head)
    kept = []
    for line in lines:
        room -= len(line.encode()) + 1
        if room < 0:
            break
        kept.append(line)
    return kept
