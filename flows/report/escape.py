r"""Text of others inside Markdown: shown as it is, never taken for markup.

What stays markup is a code span, because agents name code in them and nothing inside one is markup.
"""

import re

from flows.evidence.text import printable

_SPAN = re.compile(r"(?<!`)`[^`]+`(?!`)")
_SPECIAL = re.compile(r"[\\`*\[\]<>#|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|!(?=\[)")
_LEADING = re.compile(r"\s*(?:(?P<number>\d{1,9})(?=[.)])|(?=[-+=:]))")
_BACKTICKS = re.compile(r"`+")
_INFO = re.compile(r"[a-z0-9]{1,12}")


def inline(text: str, *, cell: bool = False) -> str:
    """Return `text` as one line of Markdown that shows exactly it; `cell`: of a table."""
    line = " ".join(printable(text).split())
    pieces = []
    end = 0
    for span in _SPAN.finditer(line):
        # A pipe ends a cell even inside a span, and readers differ in how they see `\\|` there.
        if cell and re.search(r"[\\|]", span[0]):
            continue
        pieces += [_plain(line[end : span.start()]), span[0]]
        end = span.end()
    return _unled("".join([*pieces, _plain(line[end:])]))


def prose(text: str) -> str:
    """Return `text` as paragraphs; its line ends stay, and nothing in it starts a block."""
    lines = (inline(line) for line in printable(text).strip().split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def code(text: str, *, cell: bool = False) -> str:
    """Return `text` as a code span, or as plain text where a table allows no such span."""
    line = " ".join(printable(text).split())
    if not line or (cell and re.search(r"[\\|]", line)):
        return inline(line, cell=cell)
    mark = "`" * (_longest(line) + 1)
    gap = " " if "`" in (line[0], line[-1]) else ""
    return f"{mark}{gap}{line}{gap}{mark}"


def fence(text: str, *, info: str = "") -> str:
    """Return `text` as a fenced block that nothing inside it can close."""
    mark = "`" * max(3, _longest(text) + 1)
    language = info if _INFO.fullmatch(info) else ""
    return f"{mark}{language}\n{printable(text)}\n{mark}"


def _plain(text: str) -> str:
    return _SPECIAL.sub(lambda match: f"\\{match[0]}", text)


def _unled(line: str) -> str:
    r"""Take its meaning from what would start a list, a heading or a rule: `1.` becomes `1\.`."""
    match = _LEADING.match(line)
    return line if match is None else f"{line[: match.end()]}\\{line[match.end() :]}"


def _longest(text: str) -> int:
    return max((len(run) for run in _BACKTICKS.findall(text)), default=0)
