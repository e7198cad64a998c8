"""Folded frames: pages of the original bytes, compressed, that inflate to the same entries."""

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from protocol.ids import RunId, Seq
from server.ports import LogEntry

PAGE_BYTES = 256 * 1024
"""Of the frames before compression."""


class Page(NamedTuple):
    first: Seq
    last: Seq
    data: bytes


def fold(entries: Sequence[LogEntry]) -> list[Page]:
    """Pages of consecutive frames, each about PAGE_BYTES before compression."""
    pages: list[Page] = []
    rest = list(entries)
    while rest:
        taken = within(rest, PAGE_BYTES)
        rest = rest[len(taken) :]
        # A frame is one line of JSON, so a newline parts frames; the mark says outline or not.
        lines = b"\n".join((b"1" if it.outline else b"0") + it.data for it in taken)
        pages.append(Page(taken[0].seq, taken[-1].seq, zlib.compress(lines)))
    return pages


def inflate(run_id: RunId, first: int, data: bytes) -> list[LogEntry]:
    """The entries of a page, byte for byte as they were committed."""
    lines = zlib.decompress(data).split(b"\n")
    return [
        LogEntry(run_id, Seq(first + place), line[1:], line[:1] == b"1")
        for place, line in enumerate(lines)
    ]


def within(entries: Iterable[LogEntry], limit: int) -> list[LogEntry]:
    """The first entries of about `limit` bytes, but at least one if there is one."""
    taken: list[LogEntry] = []
    size = 0
    for entry in entries:
        size += len(entry.data)
        if taken and size > limit:
            break
        taken.append(entry)
    return taken
