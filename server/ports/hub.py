"""The port to live frames."""

from collections.abc import Callable, Sequence
from typing import Protocol

from protocol.ids import RunId, Seq
from server.ports.store import LogEntry


class Hub(Protocol):
    """Heads and a ring of ready-made frames per live run. The log is the record, not the hub."""

    def publish(self, entries: Sequence[LogEntry]) -> None:
        """Take committed frames, in order per run, and wake who listens to their runs."""
        ...

    def after(self, run_id: RunId, seq: Seq) -> Sequence[LogEntry] | None:
        """The frames after `seq`, oldest first; None when the ring does not reach back so far."""
        ...

    def listen(self, run_id: RunId, wake: Callable[[], None]) -> None:
        """Call `wake` after each publish to the run, until `forget`. `wake` must not block."""
        ...

    def forget(self, run_id: RunId, wake: Callable[[], None]) -> None: ...
