"""Where a citation points to: its path among the paths of the tree, its quote in a file."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from flows.evidence.text import fold, without_zero_width
from flows.paths import PathError, normalise


class FoundPath(NamedTuple):
    path: str | None
    """None when it names no file of the tree."""
    note: str | None = None
    """What was repaired, or what is wrong; None when the path was right as it stood."""


class PathIndex:
    """The paths of one tree, ready for many look-ups. `root` is where agents see the tree."""

    def __init__(self, paths: Sequence[str], *, root: str) -> None:
        self._known = frozenset(paths)
        self._root = root.rstrip("/") + "/"
        self._by_name: dict[str, list[str]] = {}
        for path in paths:
            self._by_name.setdefault(path.rpartition("/")[2], []).append(path)

    def find(self, cited: str) -> FoundPath:
        """Find the file that a cited path names; a unique end of one path is completed to it."""
        if cited in self._known:
            return FoundPath(cited)
        plain = without_zero_width(cited).strip()
        inside = plain.removeprefix(self._root)
        try:
            path = _relative(inside)
        except PathError as error:
            return FoundPath(None, str(error))
        if path not in self._known:
            return self._completed(path)
        return FoundPath(path, "absolute path made relative" if inside != plain else None)

    def _completed(self, path: str) -> FoundPath:
        candidates = self._by_name.get(path.rpartition("/")[2], [])
        matches = [candidate for candidate in candidates if candidate.endswith(f"/{path}")]
        match matches:
            case [only]:
                return FoundPath(only, "path completed")
            case []:
                return FoundPath(None, "no such file in the tree")
        return FoundPath(None, f"{len(matches)} files have this name")


def _relative(path: str) -> str:
    if ".." in re.split(r"[/\\]", path):
        raise PathError("`..` in a path")
    return normalise(path)


class Lines(NamedTuple):
    """Lines counted from 1, both included."""

    start: int
    end: int


class Places(NamedTuple):
    """Where a quote stands, seen from one line. At least one of the two neighbours is there."""

    before: Lines | None
    """The last place that starts before the line."""
    after: Lines | None
    """The first place that starts at the line or behind it."""
    lone: bool
    """Whether this is the only place."""

    def nearest(self, line: int) -> Lines:
        """The place that starts nearest to the line; of two equally near the earlier."""
        places = [place for place in (self.before, self.after) if place is not None]
        return min(places, key=lambda place: abs(place.start - line))


class FoldedFile:
    """One file with its white space folded, ready for many searches.

    A search costs a few scans by `str.find` however often the quote occurs, so a file of a hundred
    thousand equal lines takes no longer than another one.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        folded = fold(lines)
        self._text = "\n".join(["", *folded, ""])
        self._starts = list(accumulate((len(line) + 1 for line in folded), initial=1))[:-1]

    def search(self, quote: Sequence[str], *, line: int, whole: bool) -> Places | None:
        """Find a folded quote, seen from `line`.

        `whole`: it has to be made of whole lines. Otherwise its first line may start, and its last
        line may end, in the middle of a line of the file.
        """
        edge = "\n" if whole else ""
        needle = edge + "\n".join(quote) + edge
        first = self._text.find(needle)
        if first < 0:
            return None
        last = self._text.rfind(needle)
        here = self._offset(line) - len(edge)
        before = self._text.rfind(needle, 0, here + len(needle) - 1)
        after = self._text.find(needle, here)

        def lines_at(offset: int) -> Lines:
            start = bisect_right(self._starts, offset + len(edge))
            return Lines(start, start + len(quote) - 1)

        return Places(
            before=lines_at(before) if before >= 0 else None,
            after=lines_at(after) if after >= 0 else None,
            lone=lines_at(first) == lines_at(last),
        )

    def _offset(self, line: int) -> int:
        return self._starts[line - 1] if line <= len(self._starts) else len(self._text)
