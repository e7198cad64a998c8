"""What a client says of its connection, how patient it is, and how it fails."""

from enum import StrEnum
from typing import NamedTuple

MAX_WAIT_MS = 60_000.0
"""Of what a server may ask a client to wait."""


class Unreachable(Exception):
    """No answer. `code` is `offline`, `timeout`, or `unauthenticated` when the credentials are not
    taken; `hint` is the way out."""

    def __init__(self, message: str, *, code: str = "offline", hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class State(StrEnum):
    CONNECTING = "connecting"
    LIVE = "live"
    RECONNECTING = "reconnecting"
    SIGNED_OUT = "signed_out"
    REFUSED = "refused"
    CLOSED = "closed"


class Condition(NamedTuple):
    """How the connection is, and the close code that led there (1006 when there was none)."""

    state: State
    code: int | None = None
    reason: str = ""
    retry_in_ms: int | None = None


class Pace(NamedTuple):
    """How patient a client is."""

    base_ms: float = 250.0
    max_ms: float = 10_000.0
    connect_seconds: float = 10.0
    """From the first byte to `flow_run_hello`, and to the answer to a ticket."""
    command_seconds: float = 60.0
    """For an answer, reconnects included."""
    launch_seconds: float = 300.0
    """The same for launch, rerun and plan: a slow endpoint may have to be tried first."""
    heartbeat_seconds: float | None = None
    """What the server says if None."""


def bounded(milliseconds: float) -> float:
    """What a server asks a client to wait, as far as it makes sense."""
    return min(MAX_WAIT_MS, max(0.0, float(milliseconds)))
