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
    """Heads and a ring of ready-made frames per live run. The log is the record, not the hub.

    What is called at a publish must not block, and must not come back to the hub.
    """

    def publish(self, entries: Sequence[LogEntry]) -> None:
        """Take committed frames, in order per run, and wake who listens to their runs."""
        ...

    def after(self, run_id: RunId, seq: Seq, *, outline: bool) -> Batch | None:
        """The frames after `seq` that this detail shows, oldest first: at most a page, framed once
        for all readers with this cursor. None when the ring does not reach back so far."""
        ...

    def head(self, run_id: RunId, *, outline: bool) -> Seq:
        """The last frame that was published and that this detail shows; 0 when there was none.
        It is not forgotten while somebody listens to the run."""
        ...

    def listen(self, run_id: RunId, wake: Callable[[RunId], None]) -> None:
        """Call `wake` after each publish to the run, until `forget`."""
        ...

    def forget(self, run_id: RunId, wake: Callable[[RunId], None]) -> None: ...

    def watch(self, changed: Callable[[RunId], None]) -> None:
        """Call `changed` after each publish that an outline shows, to any run, until `unwatch`."""
        ...

    def unwatch(self, changed: Callable[[RunId], None]) -> None: ...
