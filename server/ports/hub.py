"""The port to live frames."""

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from protocol.ids import RunId, Seq
from server.ports.store import LogEntry


class Batch(Struct, frozen=True, gc=False, kw_only=True):
    """Frames of one run that follow each other, ready for every reader whose cursor is `after`."""

    after: Seq
    last: Seq
    """The cursor of a reader that has them; equal to `after` when there is nothing."""
    shown: Seq | None
    """The last frame in it; None when this detail shows none of what lies between."""
    payloads: tuple[bytes, ...]
    wire: bytes
    """All of them as WebSocket frames."""
    cut: bool
    """Whether more may be there already."""


class Hub(Protocol):
    """Heads and a ring of ready-made frames per live run. The log is the record, not the hub."""

    def publish(self, entries: Sequence[LogEntry]) -> None:
        """Take committed frames, in order per run, and wake who listens to their runs."""
        ...

    def after(self, run_id: RunId, seq: Seq, *, outline: bool) -> Batch | None:
        """The frames after `seq` that this detail shows, oldest first: at most a page, framed once
        for all readers with this cursor. None when the ring does not reach back so far."""
        ...

    def listen(self, run_id: RunId, wake: Callable[[], None]) -> None:
        """Call `wake` after each publish to the run, until `forget`. `wake` must not block."""
        ...

    def forget(self, run_id: RunId, wake: Callable[[], None]) -> None: ...
