"""Issue triage: search for the issue's rarest words, read the best hit, classify by keywords."""

import re
from collections.abc import Sequence

from flows.counted import number_of
from flows.outputs import CitedLines, IssueType, Output, SuspectedArea, TriageOutput
from protocol.report import Severity
from server.demo.rules import is_test
from server.demo.sources import Source, absolute, hit_paths, read_sources, tried
from server.demo.talk import Step, Talk
from server.demo.wire import Turn, call

READS = 2
WORDS = 5
CITED = 3

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{3,40}")
_STOP_WORDS = (
    "about above after again also always because been before being below cannot could does doing "
    "down during each error every expected from have having here however instead issue into just "
    "like line make many more most must need never only other over please problem same should show "
    "shows since some still such than that their them then there these they thing this those "
    "through time under until using version very want what when where which while will with "
    "without work works would your"
)
_STOP = frozenset(_STOP_WORDS.split())
_KINDS: tuple[tuple[IssueType, str], ...] = (
    (
        IssueType.SECURITY,
        r"vulnerab|exploit|injection|xss|csrf|leak(s|ed)? (a )?(secret|token)|cve-",
    ),
    (
        IssueType.REGRESSION,
        r"regression|used to work|worked (in|before)|since (the )?(upgrade|update)",
    ),
    (IssueType.PERFORMANCE, r"\bslow|latency|takes (too )?long|memory (use|usage|leak)|\bcpu\b"),
    (
        IssueType.BUG,
        r"crash|exception|traceback|fails?\b|broken|wrong|\bbug\b|error|does(n't| not) work",
    ),
    (
        IssueType.FEATURE,
        r"feature|would be (nice|great)|please add|support for|it should be possible",
    ),
    (IssueType.QUESTION, r"how (do|can|to)|\?\s*$|is there a way|what is"),
)
_MISSING: tuple[tuple[str, str], ...] = (
    ("The steps that lead to it.", r"steps|reproduc|when i|run(ning)? |after "),
    ("The version that it was seen in.", r"version|v?[0-9]+\.[0-9]+|commit"),
    ("What was expected instead.", r"expect|should|instead"),
    ("The exact message or output.", r"```|traceback|error:|exception|output"),
)
_STEPS_MISSING = _MISSING[0][0]
_FAULTS = (IssueType.BUG, IssueType.REGRESSION, IssueType.PERFORMANCE, IssueType.SECURITY)
_GRAVE = re.compile(r"(?i)data loss|corrupt|security|vulnerab|crash|production")


def look(talk: Talk, step: Step) -> Turn | None:
    """The search, then reads of the best hits; None when that is done."""
    words = _distinctive(_issue(talk))
    if words and not talk.calls("grep_search"):
        named = ", ".join(words)
        arguments = {"pattern": "|".join(words), "path": step.root.rstrip("/")}
        text = f"I am the scripted demo model. The rarest words of this issue are {named}."
        return Turn(text, (call("grep_search", arguments),))
    done = tried(talk, step)
    left = [path for path in _best(talk, step) if path not in done]
    if not left or len(done) >= READS:
        return None
    text = f"Most of them stand in {left[0]}, so I read that file."
    return Turn(text, (call("read_file", {"file_path": absolute(left[0], step)}),))


def conclude(talk: Talk, step: Step) -> tuple[str, Output]:
    """What to say at the end, and the classification."""
    issue = _issue(talk)
    kind = _classify(issue)
    suspected = _suspected(list(read_sources(talk, step).values()), _distinctive(issue))
    missing = _missing(issue) if kind in _FAULTS else []
    summary = (
        f"By its words this is a {kind.value}; the same things are named in "
        f"{number_of(len(suspected), 'place')} of the tree. A scripted demo model matched words; "
        "it did not understand the issue."
    )
    output = TriageOutput(
        type=kind,
        summary=summary,
        severity=_severity(issue, kind),
        reproducible=(_STEPS_MISSING not in missing) if kind in _FAULTS else None,
        missing=missing,
        suspected=suspected,
        end="complete",
    )
    return summary, output


def _issue(talk: Talk) -> str:
    """The issue: the fenced text of that name, as the flow's input is called."""
    return talk.data.get("issue", "")


def _distinctive(issue: str) -> list[str]:
    """The words most likely to be names in the code, best first."""
    words = dict.fromkeys(word for word in _WORD.findall(issue) if word.lower() not in _STOP)
    return sorted(words, key=_rarity, reverse=True)[:WORDS]


def _rarity(word: str) -> tuple[bool, int]:
    name_like = "_" in word.strip("_") or word[1:] != word[1:].lower()
    return name_like, len(word)


def _best(talk: Talk, step: Step) -> list[str]:
    hits = hit_paths(talk, step)
    return sorted(hits, key=lambda path: (is_test(path), -hits[path], path))[:READS]


def _classify(issue: str) -> IssueType:
    kinds = (kind for kind, words in _KINDS if re.search(words, issue, re.IGNORECASE))
    return next(kinds, IssueType.CHORE)


def _severity(issue: str, kind: IssueType) -> Severity | None:
    if kind not in _FAULTS:
        return None
    return Severity.CRITICAL if _GRAVE.search(issue) else Severity.WARNING


def _missing(issue: str) -> list[str]:
    return [what for what, words in _MISSING if not re.search(words, issue, re.IGNORECASE)]


def _suspected(sources: Sequence[Source], words: Sequence[str]) -> list[SuspectedArea]:
    areas = ((source, _cited(source, words)) for source in sources)
    return [
        SuspectedArea(
            area=source.path[-160:].rjust(3),
            why=f"The file names {', '.join(w for w in words if _names(source, w))}.",
            citations=cited,
        )
        for source, cited in areas
        if cited
    ]


def _names(source: Source, word: str) -> bool:
    return any(word.lower() in text.lower() for text in source.lines)


def _cited(source: Source, words: Sequence[str]) -> list[CitedLines]:
    lines = [
        index
        for index, text in enumerate(source.lines)
        if any(word.lower() in text.lower() for word in words)
    ]
    cited = [source.cite(index, index) for index in lines[:CITED]]
    return [citation for citation in cited if citation is not None]
