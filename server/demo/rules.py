"""What a plain rule is, and the few ways in which one looks at lines. The rules: `rulebook/`."""

import re
from collections.abc import Callable, Iterator

from msgspec import Struct

from flows.outputs import Action
from protocol.report import Severity
from server.demo.sources import Source

Spans = Iterator[tuple[int, int]]
"""Indexes of lines: first and last, both included."""

PYTHON = (".py", ".pyi")
SCRIPT = (".ts", ".tsx", ".js", ".jsx", ".mjs", ".vue")
CODE = (*PYTHON, *SCRIPT, ".go", ".rs", ".java", ".kt", ".rb", ".php", ".c", ".h", ".cpp", ".cs")

_COMMENT = re.compile(r"^\s*(#|//|/\*|\*|<!--|--\s)")
_DEF = re.compile(r"^(\s*)(async\s+def|def)\s+\w+")
_TEST_PATH = re.compile(r"(^|/)(tests?|__tests__|spec)/|(^|/)(test_|conftest)|[._](test|spec)\.")


class Rule(Struct, frozen=True, kw_only=True):
    """One plain rule: where it looks, and what it says of a hit.

    `grep` is the pattern by which a search prefers files; it may be wider than `find`, and uses
    only what every search engine behind `grep_search` understands. None: no pattern would tell.
    `topics` are words that tell which of the step's dimensions a hit belongs to.
    """

    id: str
    what: str
    find: Callable[[Source], Spans]
    grep: str | None
    severity: Severity
    category: str
    topics: tuple[str, ...]
    impact: str
    fix: str
    action: Action = Action.CHANGE


def line(
    pattern: str,
    *,
    unless: str | None = None,
    suffixes: tuple[str, ...] = CODE,
    comments: bool = False,
) -> Callable[[Source], Spans]:
    """Each line that has `pattern` and not `unless`; comment lines only when asked for."""
    wanted = re.compile(pattern)
    unwanted = re.compile(unless) if unless else None

    def find(source: Source) -> Spans:
        if not source.path.endswith(suffixes):
            return
        for index, text in enumerate(source.lines):
            if not wanted.search(text) or (unwanted and unwanted.search(text)):
                continue
            if comments or not is_comment(text):
                yield index, index

    return find


def pair(first: str, then: str, *, suffixes: tuple[str, ...] = PYTHON) -> Callable[[Source], Spans]:
    """Each line that has `first` with the next one that is not blank having `then`."""
    opening, following = re.compile(first), re.compile(then)

    def find(source: Source) -> Spans:
        if not source.path.endswith(suffixes):
            return
        for index, text in enumerate(source.lines):
            if not opening.search(text):
                continue
            after = next((i for i in _after(source, index) if source.lines[i].strip()), None)
            if after is not None and following.search(source.lines[after]):
                yield index, after

    return find


def whole_file(pattern: str, *, lacks: str, path: str) -> Callable[[Source], Spans]:
    """The first line with `pattern` of a wholly read file that nowhere has `lacks`.

    `path` is a pattern that the file's path must have.
    """
    wanted, missing, place = re.compile(pattern), re.compile(lacks), re.compile(path)

    def find(source: Source) -> Spans:
        if not source.whole or not place.search(source.path):
            return
        if any(missing.search(text) for text in source.lines):
            return
        hits = (i for i, text in enumerate(source.lines) if wanted.search(text))
        yield from ((i, i) for i in [next(hits, None)] if i is not None)

    return find


def long_function(limit: int) -> Callable[[Source], Spans]:
    """The head of each Python function with more than `limit` lines."""

    def find(source: Source) -> Spans:
        for start, end in functions(source):
            if end - start + 1 > limit:
                yield start, start

    return find


def long_file(limit: int) -> Callable[[Source], Spans]:
    """The first lines of a code file with more than `limit` lines."""

    def find(source: Source) -> Spans:
        if source.total > limit and source.first == 1 and source.path.endswith(CODE):
            yield 0, 0

    return find


def inside_async(pattern: str) -> Callable[[Source], Spans]:
    """Each line with `pattern` whose nearest enclosing Python function is a coroutine."""
    wanted = re.compile(pattern)

    def find(source: Source) -> Spans:
        hits = [i for i, text in enumerate(source.lines) if wanted.search(text)]
        spans = list(functions(source)) if hits else []
        for hit in hits:
            around = max((s for s in spans if s[0] < hit <= s[1]), default=None)
            if around is not None and "async" in source.lines[around[0]]:
                yield hit, hit

    return find


def functions(source: Source) -> Spans:
    """The Python functions of a source, by indentation alone."""
    if not source.path.endswith(PYTHON):
        return
    for index, text in enumerate(source.lines):
        if head := _DEF.match(text):
            yield index, _body_end(source, index, len(head[1]))


def _body_end(source: Source, start: int, indent: int) -> int:
    end = start
    for index in _after(source, start):
        text = source.lines[index]
        if not text.strip():
            continue
        # A closing bracket of the signature stands at the indent of its `def`.
        if len(text) - len(text.lstrip()) <= indent and not text.lstrip().startswith(")"):
            break
        end = index
    return end


def _after(source: Source, index: int) -> range:
    return range(index + 1, len(source.lines))


def is_comment(text: str) -> bool:
    """Whether the line is nothing but a comment."""
    return _COMMENT.match(text) is not None


def is_test(path: str) -> bool:
    """Whether the path names a test, by the usual names."""
    return _TEST_PATH.search(path) is not None


def in_docstring(source: Source, index: int) -> bool:
    """Whether a line of a Python source stands inside a triple-quoted text."""
    if not source.path.endswith(PYTHON):
        return False
    before = "\n".join(source.lines[:index])
    return before.count('"""') % 2 == 1 or before.count("'''") % 2 == 1
