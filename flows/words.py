r"""The words of a command line: quoting, escapes and columns.

White space parts words. `\` before white space, a quote or another `\` takes it as it is; any other
`\` is itself. Text in double quotes is one word of its own kind. `--name=` may be followed by a
quoted text.
"""

import re
from typing import NamedTuple

_BARE = re.compile(r'(?:\\[\s"\\]|\S)+')
_FLAG = re.compile(r"--[^\s=]*=")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\]|\\(?!["\\]))*)"')
_GAP = re.compile(r"\s*")


class WordError(ValueError):
    def __init__(self, message: str, *, column: int) -> None:
        super().__init__(message)
        self.column = column


class Word(NamedTuple):
    text: str
    """Without quotes and escapes; of `--name=value` only `--name`."""
    column: int
    """Of its first character, counted from 1."""
    quoted: bool = False
    value: str | None = None
    """What stands behind the `=` of a flag."""

    @property
    def is_flag(self) -> bool:
        return not self.quoted and self.text.startswith("-")


def split(text: str) -> list[Word]:
    """Return the words of `text`, or raise WordError for a quote that does not end."""
    words = []
    at = _gap_end(text, 0)
    while at < len(text):
        word, at = _word(text, at)
        words.append(word)
        if at < len(text) and not text[at].isspace():
            raise WordError("white space is missing after a quoted text", column=at + 1)
        at = _gap_end(text, at)
    return words


def bare(text: str) -> str:
    """Write `text` as one bare word."""
    return re.sub(r'[\s"\\]', lambda match: f"\\{match[0]}", text)


def quoted(text: str) -> str:
    """Write `text` in quotes."""
    return '"' + re.sub(r'["\\]', lambda match: f"\\{match[0]}", text) + '"'


def plain_or_quoted(text: str) -> str:
    """Write the value of a flag, in quotes where it needs them."""
    return text if re.fullmatch(r'[^\s"\\]+', text) else quoted(text)


def _word(text: str, at: int) -> tuple[Word, int]:
    column = at + 1
    if text[at] == '"':
        content, end = _quoted_at(text, at)
        return Word(content, column, quoted=True), end
    flag = _FLAG.match(text, at)
    if flag is None:
        content, end = _bare_at(text, at)
        return Word(content, column), end
    read = _quoted_at if text.startswith('"', flag.end()) else _bare_at
    value, end = read(text, flag.end())
    return Word(flag[0].removesuffix("="), column, value=value), end


def _quoted_at(text: str, at: int) -> tuple[str, int]:
    match = _QUOTED.match(text, at)
    if match is None:
        raise WordError("the quote does not end", column=at + 1)
    return re.sub(r'\\(["\\])', r"\1", match[1]), match.end()


def _bare_at(text: str, at: int) -> tuple[str, int]:
    match = _BARE.match(text, at)
    if match is None:
        return "", at
    return re.sub(r'\\([\s"\\])', r"\1", match[0]), match.end()


def _gap_end(text: str, at: int) -> int:
    match = _GAP.match(text, at)
    return at if match is None else match.end()
