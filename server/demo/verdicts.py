"""The adversarial validator: read what was cited again, and judge each submitted finding."""

import re

from flows.counted import number_of
from flows.outputs import AgentVerdict, CitedLines, Output, VerdictsOutput
from protocol.report import VerdictKind
from server.demo.rules import in_docstring, is_comment, is_test
from server.demo.sources import Source, absolute, read_sources, tried
from server.demo.talk import Step, Submitted, Talk
from server.demo.wire import Turn, call

READS = 4

_WORK_NOTE = re.compile(r"\b(TODO|FIXME|XXX|HACK|type:\s*ignore|noqa)\b")


def look(talk: Talk, step: Step) -> Turn | None:
    """The next read of a cited file; None when all, or `READS` of them, were tried."""
    done = tried(talk, step)
    cited = dict.fromkeys(c.path for submitted in step.submitted for c in submitted.citations)
    left = [path for path in cited if path not in done]
    if not left or len(done) >= READS:
        return None
    cites = f"I read again what is cited by {number_of(len(step.submitted), 'finding')}."
    start = cites if not done else "Then on."
    text = f"{start} File {len(done) + 1} is {left[0]}, of {len(cited)} cited."
    return Turn(text, (call("read_file", {"file_path": absolute(left[0], step)}),))


def conclude(talk: Talk, step: Step) -> tuple[str, Output]:
    """What to say at the end, and one verdict for each submitted id, in the order given."""
    sources = read_sources(talk, step)
    verdicts = [_judge(submitted, sources) for submitted in step.submitted]
    counts = [sum(v.verdict is kind for v in verdicts) for kind in VerdictKind]
    summary = (
        f"Of {number_of(len(verdicts), 'finding')} {counts[0]} stood as cited, {counts[1]} in part "
        f"and {counts[2]} did not. A scripted demo model compared quotes; it did not weigh them."
    )
    return summary, VerdictsOutput(verdicts=verdicts, summary=summary, end="complete")


def _judge(submitted: Submitted, sources: dict[str, Source]) -> AgentVerdict:
    for cited in submitted.citations:
        source = sources.get(cited.path)
        start = source.find(cited.quote) if source else None
        if source is not None and start is not None:
            return _found(submitted, source, start, cited)
    return _not_found(submitted, sources)


def _found(submitted: Submitted, source: Source, start: int, cited: CitedLines) -> AgentVerdict:
    end = start + cited.line_end - cited.line_start
    place = source.cite(start, min(end, len(source.lines) - 1))
    weak = _weakness(source, start)
    kind = VerdictKind.PARTIALLY_REFUTED if weak else VerdictKind.CONFIRMED
    reason = f"The quote stands at line {source.first + start} of {source.path}"
    return AgentVerdict(
        finding_id=submitted.id,
        verdict=kind,
        reason=f"{reason}, but {weak}." if weak else f"{reason}.",
        citations=[place] if place else [],
    )


def _weakness(source: Source, start: int) -> str | None:
    text = source.lines[start]
    if _WORK_NOTE.search(text):
        return None
    if in_docstring(source, start):
        return "inside a docstring, which is not run"
    if is_comment(text):
        return "the line is a comment, which is not run"
    if is_test(source.path):
        return "in a test, where it hurts less"
    return None


def _not_found(submitted: Submitted, sources: dict[str, Source]) -> AgentVerdict:
    cited = next((c for c in submitted.citations if c.path in sources), None)
    source = sources[cited.path] if cited else None
    if cited is None or source is None:
        return _open(submitted, "None of the cited files was read again")
    if not source.whole:
        return _open(submitted, f"Only a part of {source.path} was read, without the quote")
    last = len(source.lines) - 1
    start = min(cited.line_start - source.first, last)
    counter = source.cite(start, min(cited.line_end - source.first, last)) if last >= 0 else None
    return AgentVerdict(
        finding_id=submitted.id,
        verdict=VerdictKind.REFUTED,
        reason=f"The quote stands nowhere in {source.path}; what stands there is cited here.",
        citations=[counter] if counter else [],
    )


def _open(submitted: Submitted, why: str) -> AgentVerdict:
    return AgentVerdict(
        finding_id=submitted.id,
        verdict=VerdictKind.PARTIALLY_REFUTED,
        reason=f"{why}: nothing here confirms the finding.",
        citations=[],
    )
