"""References inside a document."""

from collections.abc import Iterator
from typing import Any


def dangling(document: dict[str, Any]) -> list[str]:
    """Every `$ref` of the document, and every target of a discriminator, that leads nowhere."""
    return [ref for ref in _references(document) if not _leads_somewhere(document, ref)]


def resolved(document: dict[str, Any], ref: str) -> Any:
    """What a reference leads to; raises KeyError."""
    found: Any = document
    for part in ref.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def _leads_somewhere(document: dict[str, Any], ref: str) -> bool:
    try:
        resolved(document, ref)
    except (KeyError, TypeError):
        return False
    return True


def _references(node: Any) -> Iterator[str]:
    match node:
        case {"$ref": str(ref)}:
            yield ref
        case {"discriminator": {"mapping": dict(targets)}}:
            yield from targets.values()
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _references(child)
