"""Text of others made comparable and harmless: folded for comparing, printable for showing."""

import re
from collections.abc import Iterable
from typing import Any

_BLANKS = re.compile(r"[\r\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
"""White space that moves the cursor or that some readers take for the end of a line."""

_UNSEEN = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff"
    r"\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Control characters, changes of direction (they disguise code), halves of surrogate pairs, and the
tags that spell out a second text which no person sees."""

_ZERO_WIDTH = re.compile(r"[\xad\u200b-\u200f\u2060-\u2064\ufeff]")
"""Characters without width. Our own briefs put some in (`briefing.neutralise`)."""


def printable(text: str) -> str:
    """Return `text` so that it can be stored and shown anywhere; only `\\n` ends a line of it."""
    return _UNSEEN.sub("\ufffd", _BLANKS.sub(" ", text))


def printable_all(value: Any) -> Any:
    """Return a value of JSON types with every string in it printable."""
    match value:
        case str():
            return printable(value)
        case list():
            return [printable_all(item) for item in value]
        case dict():
            return {key: printable_all(item) for key, item in value.items()}
    return value


def without_zero_width(text: str) -> str:
    return _ZERO_WIDTH.sub("", text)


def fold(lines: Iterable[str]) -> list[str]:
    """Return the lines with every run of white space as one space, and none at their ends.

    Folding does not tell a text from its printable form.
    """
    text = without_zero_width(printable("\n".join(lines)))
    return [" ".join(line.split()) for line in text.split("\n")]
