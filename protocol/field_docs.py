"""What the sources say beside each field, for the documents that are made from the Structs.

Python keeps the docstring of a class and drops the text below a field, so that is read from the
source: `{class: {field: text}}`, members of an enum likewise. It is read by its layout, which the
formatter keeps: `ast` is slow for that, and can fail under Python 3.11 when the garbage collector
runs inside of it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from inspect import cleandoc

Docs = Mapping[str, Mapping[str, str]]
NO_DOCS: Docs = {}

_PIECES = re.compile(
    r"^class (?P<kind>\w+)"
    r"|^    (?P<field>\w+)(?:: | = )"
    r'|^    """(?P<text>.*?)"""'
    r"|^    (?P<other>\S)",
    re.MULTILINE | re.DOTALL,
)


def docs_of(sources: Iterable[str]) -> Docs:
    """The text below each field of every class of these modules."""
    docs: dict[str, dict[str, str]] = {}
    for source in sources:
        for kind, field, text in _texts(source):
            docs.setdefault(kind, {})[field] = prose(text)
    return docs


def docs_for(kind: type, docs: Docs) -> dict[str, str]:
    """Those of one class, with what it has from its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= docs.get(base.__name__, {})
    return found


def prose(text: str) -> str:
    """A docstring without its indentation, one line a paragraph."""
    paragraphs = cleandoc(text).split("\n\n")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _texts(source: str) -> Iterator[tuple[str, str, str]]:
    """The class, the field and the text of each docstring that follows a field."""
    kind, field = "", ""
    for piece in _PIECES.finditer(source):
        match piece.lastgroup:
            case "kind":
                kind, field = piece["kind"], ""
            case "field":
                field = piece["field"]
            case "text" if field:
                yield kind, field, piece["text"]
                field = ""
            case "other" if piece["other"] not in ")]}":
                field = ""
