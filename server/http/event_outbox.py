"""Frames as server-sent events, on their way to one reader."""

import msgspec
from msgspec import Struct

from protocol.codec import encode_frame
from protocol.frames import ControlFrame, FlowRunFinished, FlowRunReset, FlowRunSubscribed
from protocol.ids import Gen
from server.http.streamed import CutShort, Outlet
from server.ports import Batch

CHUNK_BYTES = 64 * 1024
"""Of events that are written at once."""


class EventOutbox:
    """Events on their way to one reader: an `Outbox`. `gen` is the log's, in every cursor."""

    def __init__(self, outlet: Outlet, gen: Gen) -> None:
        self._outlet = outlet
        self._gen = gen
        self._pieces: list[bytes] = []
        self._size = 0
        self._dropped = False
        self.finished = False
        """Whether the last frame of the run has passed."""

    @property
    def full(self) -> bool:
        return self._size >= CHUNK_BYTES

    def batch(self, batch: Batch) -> None:
        for payload in batch.payloads:
            head = _HEAD.decode(payload)
            self._add(event(payload, id=f"{self._gen}:{head.seq}"))
            self.finished |= head.type == _LAST

    def control(self, frame: ControlFrame) -> None:
        """Add a control frame, with an `id` when it moves the cursor."""
        seq = None
        if isinstance(frame, FlowRunSubscribed):
            seq = frame.after
        elif isinstance(frame, FlowRunReset):
            seq = frame.head
        self._add(event(encode_frame(frame), id=None if seq is None else f"{self._gen}:{seq}"))

    def raw(self, data: bytes) -> None:
        self._add(data)

    async def flush(self) -> None:
        """Raises CutShort when the rest was dropped."""
        data = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        for start in range(0, len(data), CHUNK_BYTES):
            if self._dropped:
                raise CutShort
            await self._outlet.write(data[start : start + CHUNK_BYTES])

    def drop(self) -> None:
        """Send nothing more. A reader that has taken everything sees an end in order."""
        self._dropped = True
        if self._outlet.waiting:
            self._outlet.abort()

    def abort(self) -> None:
        self._outlet.abort()

    def _add(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)


def event(data: bytes, *, id: str | None = None) -> bytes:
    """One event. A frame is one line of JSON, so it is one `data` field."""
    head = b"" if id is None else f"id: {id}\n".encode()
    return head + b"data: " + data + b"\n\n"


class _Head(Struct, frozen=True):
    """What a stream reads of a stored frame."""

    type: str
    seq: int


_HEAD = msgspec.json.Decoder(_Head)
_LAST = FlowRunFinished.__struct_config__.tag
