"""What the sources say beside each field, for the documents that are made from the Structs.

Python keeps the docstring of a class and drops the text below a field, so that is read from the
source: `{class: {field: text}}`, members of an enum likewise.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from inspect import cleandoc

Docs = Mapping[str, Mapping[str, str]]
NO_DOCS: Docs = {}


def docs_of(sources: Iterable[str]) -> Docs:
    """The text below each field of every class of these modules."""
    return {
        node.name: dict(_fields(node))
        for source in sources
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }


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


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(node.body, node.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, prose(text)
