"""Git's objects as values: the ids of files and trees, and packs to put them in."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

TREE, BLOB = b"tree", b"blob"
PLAIN, RUNNABLE = 0o100644, 0o100755
PACK_BYTES = 32 * 1024 * 1024
"""What one pack holds at most, but for a single larger object."""

_HASHES = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}
_PACK_TYPES = {TREE: 2, BLOB: 3}


class Leaf(NamedTuple):
    """A file of a tree."""

    path: bytes
    mode: int
    blob: bytes


class Object(NamedTuple):
    kind: bytes
    content: bytes


def object_id(kind: bytes, content: bytes, object_format: str) -> bytes:
    head = b"%b %d\0" % (kind, len(content))
    return _HASHES[object_format](head + content, usedforsecurity=False).digest()


def trees_of(leaves: Iterable[Leaf], object_format: str) -> tuple[bytes, dict[bytes, Object]]:
    """The id of the tree of these files, and it and every tree below it by id.

    The files come sorted by path, byte by byte: in that order the files of a folder stand together
    and every entry of a tree comes in git's own order.
    """
    found: dict[bytes, Object] = {}
    # One open folder after the other: its name with a slash, and its entries so far.
    opened: list[tuple[bytes, list[bytes]]] = [(b"", [])]

    def close() -> bytes:
        _, entries = opened.pop()
        content = b"".join(entries)
        name = object_id(TREE, content, object_format)
        found[name] = Object(TREE, content)
        return name

    def close_folder() -> None:
        place = opened[-1][0]
        name = close()
        outer, entries = opened[-1]
        entries.append(b"40000 %b\0%b" % (place[len(outer) : -1], name))

    for leaf in leaves:
        while not leaf.path.startswith(opened[-1][0]):
            close_folder()
        place = opened[-1][0]
        parts = leaf.path[len(place) :].split(b"/")
        for part in parts[:-1]:
            place += part + b"/"
            opened.append((place, []))
        opened[-1][1].append(b"%o %b\0%b" % (leaf.mode, parts[-1], leaf.blob))
    while len(opened) > 1:
        close_folder()
    return close(), found


def packs_of(objects: Iterable[Object], object_format: str) -> Iterator[bytes]:
    """Packs with all of the objects, none much larger than PACK_BYTES."""
    parts: list[bytes] = []
    size = 0
    for each in objects:
        parts.append(_entry(each))
        size += len(parts[-1])
        if size > PACK_BYTES:
            yield _pack(parts, object_format)
            parts, size = [], 0
    if parts:
        yield _pack(parts, object_format)


def _pack(parts: list[bytes], object_format: str) -> bytes:
    content = b"".join((b"PACK\0\0\0\2", len(parts).to_bytes(4, "big"), *parts))
    return content + hashlib.new(object_format, content, usedforsecurity=False).digest()


def _entry(each: Object) -> bytes:
    """An object in a pack: its type and size in seven bits and more, and it itself."""
    size = len(each.content)
    first = _PACK_TYPES[each.kind] << 4 | size & 0x0F
    size >>= 4
    head = bytearray()
    while size:
        head.append(first | 0x80)
        first, size = size & 0x7F, size >> 7
    head.append(first)
    return bytes(head) + zlib.compress(each.content, 1)
