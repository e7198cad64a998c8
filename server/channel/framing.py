"""Frames as WebSocket messages: framed once, in one piece, whoever is to read them."""

import struct
from collections.abc import Iterable, Sequence

from protocol.ids import Seq
from server.ports import Batch, LogEntry

PAGE_BYTES = 256 * 1024
"""A batch ends before it has more: so much is written to one reader at once."""
HEADER_BYTES = 10
"""At most, of one frame."""

_TEXT = 0x81
"""A whole text message: FIN, opcode 1, never compressed, never masked (RFC 6455, 5.2)."""
_SHORT = struct.Struct("!BB").pack
_MIDDLE = struct.Struct("!BBH").pack
_LONG = struct.Struct("!BBQ").pack


def framed(payload: bytes) -> bytes:
    """One text message of a server."""
    return _header(len(payload)) + payload


def joined(payloads: Iterable[bytes]) -> bytes:
    """Text messages one behind the other."""
    pieces: list[bytes] = []
    for payload in payloads:
        pieces += _header(len(payload)), payload
    return b"".join(pieces)


def page_of(entries: Iterable[LogEntry]) -> tuple[list[LogEntry], bool]:
    """The first PAGE_BYTES of frames, at least one; and whether there are more."""
    page: list[LogEntry] = []
    size = 0
    for entry in entries:
        size += len(entry.data) + HEADER_BYTES
        if page and size > PAGE_BYTES:
            return page, True
        page.append(entry)
    return page, False


def batch_of(
    after: Seq, page: Sequence[LogEntry], *, outline: bool, cut: bool, through: Seq | None = None
) -> Batch:
    """All of a page that follows `after`, without what this detail does not show. It reaches to its
    last frame, or to `through`."""
    shown = [entry for entry in page if entry.outline] if outline else page
    payloads = tuple(entry.data for entry in shown)
    last = page[-1].seq if page else after
    return Batch(
        after=after,
        last=last if through is None else through,
        shown=shown[-1].seq if shown else None,
        payloads=payloads,
        wire=joined(payloads),
        cut=cut,
    )


def _header(size: int) -> bytes:
    if size < 126:
        return _SHORT(_TEXT, size)
    if size < 65_536:
        return _MIDDLE(_TEXT, 126, size)
    return _LONG(_TEXT, 127, size)
