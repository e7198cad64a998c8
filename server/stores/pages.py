"""Folded frames: pages of the original bytes, compressed, that inflate to the same frames."""

import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from protocol.ids import Seq
from server.ports import LogEntry

PAGE_BYTES = 256 * 1024
"""Of the frames before compression."""


class Page(NamedTuple):
    first: Seq
    last: Seq
    data: bytes


def fold(entries: Iterable[LogEntry]) -> Iterator[Page]:
    """Pages of consecutive frames, each about PAGE_BYTES before compression; one frame at least.
    No more than a page of the entries is kept."""
    taken: list[LogEntry] = []
    size = 0
    for entry in entries:
        size += len(entry.data)
        if taken and size > PAGE_BYTES:
            yield _folded(taken)
            taken, size = [], len(entry.data)
        taken.append(entry)
    if taken:
        yield _folded(taken)


def _folded(entries: list[LogEntry]) -> Page:
    # A frame is one line of JSON, so a newline parts frames; the mark says outline or not.
    lines = b"\n".join((b"1" if it.outline else b"0") + it.data for it in entries)
    return Page(entries[0].seq, entries[-1].seq, zlib.compress(lines))


def inflate(first: int, data: bytes) -> Iterator[tuple[int, bool, bytes]]:
    """The frames of a page, byte for byte as they were committed: seq, outline or not, data."""
    for seq, line in enumerate(zlib.decompress(data).split(b"\n"), first):
        yield seq, line[:1] == b"1", line[1:]
