"""Rules 2 to 4: a citation is checked against the pinned tree, quote first, line second.

The quote decides. It is looked for as whole lines, then as a cut through the text whose first line
may start and whose last line may end inside a line. White space is folded, characters without
width do not count. What an agent copied along with the lines (line numbers of a tool, the marks of
a patch) is taken off when the quote is not found with it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from flows.evidence.places import FoldedFile, Lines, PathIndex
from flows.evidence.text import fold, printable
from flows.facts import TreeView
from flows.outputs import CitedLines
from protocol.report import Citation, CitationState

MAX_QUOTE_LINES = 12
MIN_QUOTE_CHARACTERS = 12
"""Without white space. A shorter text stands nearly everywhere."""
MAX_SHOWN_CHARACTERS = 2_400

_NUMBERED = re.compile(r"L?\d+(?: ?[→:|]|-| |$)")
_PATCHED = re.compile(r"[+-]")


class Checker:
    """Checks citations against one tree. Files are folded once and kept for the next citation.

    `root` is the folder where the agent sees the tree.
    """

    def __init__(self, tree: TreeView, *, root: str) -> None:
        self._tree = tree
        self._paths = PathIndex(tree.paths(), root=root)
        self._folded: dict[str, FoldedFile] = {}

    def check(self, cited: CitedLines) -> Citation:
        """Return the citation with the verdict on it.

        A found one has the path and the lines where its quote really stands, and as quote the lines
        of the tree. Never raises.
        """
        found = self._paths.find(cited.path)
        if found.path is None:
            return _refused(cited, found.note)
        path_changes = {"path": found.path}
        if found.note is not None:
            path_changes["cited_path"] = cited.path
        quote = _trimmed(cited.quote)
        problem = _problem(quote)
        if problem is not None:
            return _refused(cited, problem, **path_changes)
        hit = self._search(found.path, quote, cited)
        notes = [found.note, hit.note if hit else "the quote stands nowhere in this file"]
        placed = self._placed(found.path, hit, cited) if hit else _as_cited(cited)
        return msgspec.structs.replace(
            placed, **path_changes, note="; ".join(filter(None, notes)) or None
        )

    def _search(self, path: str, quote: list[str], cited: CitedLines) -> "_Hit | None":
        file = self._file(path)
        for text, note in _readings(quote):
            hit = _hit(file, text, cited)
            if hit is not None:
                notes = filter(None, [note, hit.note])
                return hit._replace(note="; ".join(notes) or None)
        return None

    def _file(self, path: str) -> FoldedFile:
        if path not in self._folded:
            self._folded[path] = FoldedFile(self._tree.lines(path) or [])
        return self._folded[path]

    def _placed(self, path: str, hit: "_Hit", cited: CitedLines) -> Citation:
        """The citation with what stands there in the tree; of a very long line only the cut."""
        shown = "\n".join(self._file(path).lines[hit.lines.start - 1 : hit.lines.end])
        moved = hit.lines.start != cited.line_start
        return Citation(
            path=path,
            line_start=hit.lines.start,
            line_end=hit.lines.end,
            quote=printable(shown if len(shown) <= MAX_SHOWN_CHARACTERS else hit.text),
            state=hit.state,
            cited_line=cited.line_start if moved else None,
        )


class _Hit(NamedTuple):
    state: CitationState
    lines: Lines
    text: str
    note: str | None


def _hit(file: FoldedFile, quote: list[str], cited: CitedLines) -> _Hit | None:
    """Where the quote stands: at the cited place if it does, else as near to it as it does."""
    text = "\n".join(quote)
    whole, cut = (file.search(quote, line=cited.line_start, whole=it) for it in (True, False))
    if cut is None:
        return None
    for places in (whole, cut):
        if places is not None and places.after is not None and _is_cited(places.after, cited):
            return _Hit(CitationState.VERIFIED, places.after, text, _narrowed(places.after, cited))
    places = whole or cut
    lines = places.nearest(cited.line_start)
    if places.lone:
        return _Hit(CitationState.MOVED, lines, text, f"cited as line {cited.line_start}")
    note = f"the quote stands in several places; cited as line {cited.line_start}"
    return _Hit(CitationState.AMBIGUOUS, lines, text, note)


def _is_cited(lines: Lines, cited: CitedLines) -> bool:
    """Whether lines from the cited one on stay inside the cited lines, or start just there."""
    return lines.start == cited.line_start or lines.end <= cited.line_end


def _narrowed(lines: Lines, cited: CitedLines) -> str | None:
    if lines == (cited.line_start, cited.line_end):
        return None
    return f"cited as lines {cited.line_start}-{cited.line_end}"


def _readings(quote: list[str]) -> Iterator[tuple[list[str], str | None]]:
    """The quote as it is, then without what may have been copied along with it."""
    yield quote, None
    for mark, note in ((_NUMBERED, "line numbers taken off"), (_PATCHED, "patch marks taken off")):
        bare = _without(mark, quote)
        if bare != quote and _problem(bare) is None:
            yield bare, note


def _without(mark: re.Pattern[str], quote: list[str]) -> list[str]:
    """Take a leading mark off. Lines without any stay: the context of a patch has no mark."""
    bare = [line[match.end() :].strip() if (match := mark.match(line)) else line for line in quote]
    return _without_blank_ends(bare)


def _trimmed(quote: str) -> list[str]:
    return _without_blank_ends(fold(quote.split("\n")))


def _without_blank_ends(lines: Sequence[str]) -> list[str]:
    filled = [number for number, line in enumerate(lines) if line]
    return list(lines[filled[0] : filled[-1] + 1]) if filled else []


def _problem(quote: list[str]) -> str | None:
    """Why a text is no usable quote; None when it is one."""
    if len(quote) > MAX_QUOTE_LINES:
        return f"the quote has {len(quote)} lines, at most {MAX_QUOTE_LINES} count"
    size = sum(len(line) - line.count(" ") for line in quote)
    if size < MIN_QUOTE_CHARACTERS:
        return f"the quote has {size} characters, {MIN_QUOTE_CHARACTERS} are needed"
    return None


def _refused(cited: CitedLines, note: str | None, **changes: str) -> Citation:
    return msgspec.structs.replace(
        _as_cited(cited), state=CitationState.INVALID, note=note, **changes
    )


def _as_cited(cited: CitedLines) -> Citation:
    return Citation(
        path=cited.path,
        line_start=cited.line_start,
        line_end=cited.line_end,
        quote=cited.quote,
    )
