"""Reading what qwen's own tools return (measured on 0.24.4).

`read_file` gives the bare text, without line numbers; line ends come back as LF. A part of a file
starts with `Showing lines A-B of N total lines.` and a rule, and a cut last line ends with
`... [truncated]`. `grep_search` has two shapes: ripgrep's `/abs/path:7:text`, and the built-in
search's `File: rel/path` followed by `L7: text` with the indent removed.
"""

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from flows.outputs import CitedLines
from server.demo.talk import Done, Step, Talk

MIN_QUOTE = 12
"""Non-space characters that podium wants of a quote."""
MAX_QUOTE_LINES = 12
MAX_QUOTE = 2_400

_PART = re.compile(r"\AShowing lines (\d+)-\d+ of (\d+) total lines\.\n\n---\n\n")
_CUT = "... [truncated]"
_FAILED = re.compile(
    r"\A(File not found: |Qwen Code requires permission to use |Error\b[^\n]*\Z"
    r"|\[File [^\n]* unchanged since last read|\(read_file completed with no output\)\Z"
    r"|Cannot display content of binary file)"
)
_RIPGREP_HIT = re.compile(r"^(/.+?):(\d+):", re.MULTILINE)
_BUILTIN_FILE = re.compile(r"^File: (.+)\n((?:L\d+: .*\n?)+)", re.MULTILINE)


class Source(Struct, frozen=True):
    """The lines of a file that a read returned. `first` is the number of the first of them."""

    path: str
    lines: tuple[str, ...]
    first: int
    total: int
    whole: bool

    def find(self, quote: str) -> int | None:
        """The index of the first line where `quote` stands, white space folded as podium does."""
        wanted = [" ".join(line.split()) for line in quote.strip("\n").splitlines()]
        folded = [" ".join(line.split()) for line in self.lines]
        starts = range(len(folded) - len(wanted) + 1)
        return next((i for i in starts if folded[i : i + len(wanted)] == wanted), None)

    def cite(self, start: int, end: int) -> CitedLines | None:
        """Cite the lines at the indexes `start` to `end`, widened until they can be a quote.

        None when even then they are too short or too long.
        """
        while _solid(self.lines[start : end + 1]) < MIN_QUOTE and end - start < MAX_QUOTE_LINES - 1:
            if end + 1 < len(self.lines):
                end += 1
            elif start > 0:
                start -= 1
            else:
                return None
        quote = "\n".join(self.lines[start : end + 1])
        if len(quote) > MAX_QUOTE or _solid([quote]) < MIN_QUOTE:
            return None
        return CitedLines(
            path=self.path,
            line_start=self.first + start,
            line_end=self.first + end,
            quote=quote,
        )


def _solid(lines: Sequence[str]) -> int:
    return sum(len("".join(line.split())) for line in lines)


def read_sources(talk: Talk, step: Step) -> dict[str, Source]:
    """What each successful read returned, by repository path, in the order of reading."""
    sources = {}
    for done in talk.calls("read_file"):
        path = relative(str(done.arguments.get("file_path", "")), step)
        if not _FAILED.match(done.result):
            sources[path] = _source(path, done)
    return sources


def _source(path: str, done: Done) -> Source:
    part = _PART.match(done.result)
    text = done.result[part.end() :] if part else done.result
    lines = text.split("\n")
    if lines[-1] == "" or lines[-1].endswith(_CUT):
        lines.pop()
    first, total = (int(part[1]), int(part[2])) if part else (1, len(lines))
    return Source(path, tuple(lines), first, total, whole=part is None)


def tried(talk: Talk, step: Step) -> list[str]:
    """The repository paths that were asked for, read or not, in order."""
    calls = talk.calls("read_file")
    return [relative(str(done.arguments.get("file_path", "")), step) for done in calls]


def hit_paths(talk: Talk, step: Step) -> dict[str, int]:
    """How many lines each file has that a search hit, by repository path, in sorted order."""
    hits: dict[str, int] = {}
    for done in talk.calls("grep_search"):
        for path, count in _hits(done.result):
            name = relative(path, step)
            hits[name] = hits.get(name, 0) + count
    return dict(sorted(hits.items()))


def _hits(result: str) -> Iterator[tuple[str, int]]:
    for found in _RIPGREP_HIT.finditer(result):
        yield found[1], 1
    for found in _BUILTIN_FILE.finditer(result):
        yield found[1], found[2].count("\n") or 1


def absolute(path: str, step: Step) -> str:
    """The path that a tool is given for a repository path."""
    return f"{step.root.rstrip('/')}/{path}"


def relative(path: str, step: Step) -> str:
    """The repository path of one that a tool was given or returned."""
    return path.removeprefix(step.root.rstrip("/") + "/")
