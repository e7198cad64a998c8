"""A reviewing role: search for what the role's rules look for, read the best hits, report."""

from collections.abc import Iterator, Sequence
from os.path import commonpath, dirname

from msgspec import Struct

from flows.counted import number_of
from flows.outputs import (
    AgentFinding,
    CitedLines,
    ClearedDimension,
    FindingsOutput,
    Output,
)
from protocol.report import Confidence, Severity
from server.demo.rulebook import rules_for
from server.demo.rules import Rule, is_test
from server.demo.sources import Source, absolute, hit_paths, read_sources, tried
from server.demo.talk import Step, Talk
from server.demo.wire import Turn, call

READS = 3
CITED = 3
NAME = 90
"""The most of a path, from its end, that a title has room for."""
MOST_FINDINGS = 10
"""However many the step allows: a demo's result shall fit every model's answer limit."""

_ORDER = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.SUGGESTION: 2}


class Hit(Struct, frozen=True):
    """What one rule found in one file."""

    rule: Rule
    source: Source
    citations: tuple[CitedLines, ...]
    places: int


def look(talk: Talk, step: Step) -> Turn | None:
    """The next search or read; None when all was looked at."""
    if not talk.calls("grep_search"):
        return _search(step)
    done = tried(talk, step)
    left = [path for path in _choose(talk, step) if path not in done]
    if not left or len(done) >= READS:
        return None
    return _read(talk, step, left[0])


def _search(step: Step) -> Turn:
    rules = rules_for(step.role)
    pattern = "|".join(dict.fromkeys(rule.grep for rule in rules if rule.grep))
    text = (
        f"I am the scripted demo model, as {step.role}. I start with a search for the "
        f"{number_of(len(rules), 'thing')} that my plain rules know, in the slice of "
        f"{number_of(len(step.files), 'file')} that I was given."
    )
    return Turn(text, (call("grep_search", {"pattern": pattern, "path": _where(step)}),))


def _where(step: Step) -> str:
    """The deepest directory that holds the whole slice, so that the answer stays short."""
    folder = commonpath([dirname(path) for path in step.files]) if step.files else ""
    return absolute(folder, step).rstrip("/")


def _choose(talk: Talk, step: Step) -> list[str]:
    """Files worth a read: those of the slice that the search hit most, then the others, in order.

    Tests come after what they test, except for a role that looks at tests.
    """
    hits = hit_paths(talk, step)
    files = {path: _hits_of(path, hits) for path in step.files} or hits
    tests_last = not _looks_at_tests(step)

    def rank(path: str) -> tuple[bool, bool, int]:
        return not files[path], tests_last and is_test(path), -files[path]

    return sorted(files, key=rank)[:READS]


def _hits_of(path: str, hits: dict[str, int]) -> int:
    # The built-in search names files from where it searched, not from the root.
    return sum(n for hit, n in hits.items() if path == hit or path.endswith(f"/{hit}"))


def _read(talk: Talk, step: Step, path: str) -> Turn:
    seen = read_sources(talk, step)
    before = "The search is back." if not seen else _said(list(seen.values())[-1], step)
    text = f"{before} Next I read {path} from its first line."
    return Turn(text, (call("read_file", {"file_path": absolute(path, step)}),))


def _said(source: Source, step: Step) -> str:
    places = sum(hit.places for hit in _hits([source], step))
    lines = number_of(len(source.lines), "line")
    return f"{source.path} gave {lines}, with {number_of(places, 'place')} that a rule names."


def conclude(talk: Talk, step: Step) -> tuple[str, Output]:
    """What to say at the end, and the result."""
    sources = list(read_sources(talk, step).values())
    hits = sorted(_hits(sources, step), key=lambda hit: _ORDER[_severity(hit, step)])
    kept = hits[: max(0, min(step.max_findings, MOST_FINDINGS))]
    findings = [_finding(hit, step) for hit in kept]
    summary = _summary(sources, kept=len(kept), found=len(hits))
    output = FindingsOutput(
        summary=summary,
        findings=findings,
        cleared=_cleared(findings, sources, step),
        deferred=[],
        negative=not findings,
        searched=_searched(talk, sources, step)[:30],
        end="complete",
    )
    return f"That is all I looked at. {summary}", output


def _hits(sources: Sequence[Source], step: Step) -> Iterator[Hit]:
    for source in sources:
        for rule in rules_for(step.role):
            spans = list(rule.find(source))
            cited = [source.cite(start, end) for start, end in spans[:CITED]]
            citations = tuple(citation for citation in cited if citation is not None)
            if citations:
                yield Hit(rule, source, citations, len(spans))


def _finding(hit: Hit, step: Step) -> AgentFinding:
    rule, first = hit.rule, hit.citations[0]
    places = "one place" if hit.places == 1 else f"{hit.places} places"
    name = hit.source.path[-NAME:]
    return AgentFinding(
        title=f"{rule.what[0].upper()}{rule.what[1:]} in {name}",
        claim=f"A plain rule found {rule.what} in {places} of this file, first at line "
        f"{first.line_start}. It looks at lines, not at what they mean.",
        category=_dimension(rule, step) or rule.category,
        severity=_severity(hit, step),
        confidence=Confidence.MEDIUM,
        citations=list(hit.citations),
        impact=rule.impact,
        fix=rule.fix,
        action=rule.action,
        alias=rule.id,
    )


def _severity(hit: Hit, step: Step) -> Severity:
    """The rule's; in a test, which may well hold bad code on purpose, only a suggestion."""
    in_passing = is_test(hit.source.path) and not _looks_at_tests(step)
    return Severity.SUGGESTION if in_passing else hit.rule.severity


def _looks_at_tests(step: Step) -> bool:
    return "test" in step.role


def _dimension(rule: Rule, step: Step) -> str | None:
    """The first of the step's dimensions that a topic of the rule names."""
    names = (name for name in step.dimensions for topic in rule.topics if topic in name.lower())
    return next(names, None)


def _summary(sources: Sequence[Source], *, kept: int, found: int) -> str:
    lines = sum(len(source.lines) for source in sources)
    where = f"{number_of(lines, 'line')} in {number_of(len(sources), 'file')}"
    told = f"Plain rules looked at {where} and found {number_of(found, 'thing')}"
    more = f", of which the first {kept} are listed" if kept < found else ""
    return f"{told}{more}. A scripted demo model did this; it is not a review."


def _cleared(
    findings: Sequence[AgentFinding], sources: Sequence[Source], step: Step
) -> list[ClearedDimension]:
    named = {finding.category for finding in findings}
    known = {_dimension(rule, step) for rule in rules_for(step.role)}
    return [
        ClearedDimension(dimension=dimension, note=_note(sources, ruled=dimension in known))
        for dimension in step.dimensions[:30]
        if dimension not in named
    ]


def _note(sources: Sequence[Source], *, ruled: bool) -> str:
    if not sources:
        return "Nothing could be read, so nothing was found."
    if not ruled:
        return "The demo has no plain rule for this dimension; nothing was looked for."
    names = ", ".join(source.path.rsplit("/", 1)[-1][:NAME] for source in sources)
    return f"No plain rule of this dimension matched in {names}."


def _searched(talk: Talk, sources: Sequence[Source], step: Step) -> list[str]:
    searches = [f"grep_search below {_where(step)[-300:]}"] * bool(talk.calls("grep_search"))
    reads = [_read_note(source) for source in sources]
    failed = [path for path in tried(talk, step) if path not in {s.path for s in sources}]
    return [*searches, *reads, *(f"could not read {path[-400:]}" for path in failed)] or ["nothing"]


def _read_note(source: Source) -> str:
    extent = "whole" if source.whole else f"the first {len(source.lines)} of {source.total} lines"
    return f"read_file {source.path[-400:]} ({extent})"
