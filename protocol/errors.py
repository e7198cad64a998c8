"""What can go wrong on the wire: error codes, close codes, and the one exception that carries them.

ProtocolError
├── BadMessage
└── MessageTooLarge
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple


class ErrorCode(StrEnum):
    """The `code` of every error frame and of every REST error beyond the four run routes' own."""

    BAD_MESSAGE = "bad_message"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    UNKNOWN_FLOW = "unknown_flow"
    BAD_ARGUMENTS = "bad_arguments"
    KEY_CONFLICT = "key_conflict"
    ALREADY_TERMINAL = "already_terminal"
    BUSY = "busy"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    AGENT_UNAVAILABLE = "agent_unavailable"
    READ_ONLY_UNPROVEN = "read_only_unproven"
    STORE_UNAVAILABLE = "store_unavailable"
    INTERNAL = "internal"


HTTP_STATUS: dict[ErrorCode, int] = {
    ErrorCode.BAD_MESSAGE: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.UNKNOWN_FLOW: 422,
    ErrorCode.BAD_ARGUMENTS: 422,
    ErrorCode.KEY_CONFLICT: 409,
    ErrorCode.ALREADY_TERMINAL: 409,
    ErrorCode.BUSY: 409,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.AGENT_UNAVAILABLE: 503,
    ErrorCode.READ_ONLY_UNPROVEN: 503,
    ErrorCode.STORE_UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}
"""How REST answers a code, where `routes.py` says nothing else."""


class ProtocolError(Exception):
    """A refusal with everything a client needs to understand it.

    `message` is a sentence for a person; `field` names the offending part of the request; `hint`
    says the way out; `retry_after_ms` is set when the same request may succeed later.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.hint = hint
        self.retry_after_ms = retry_after_ms


class BadMessage(ProtocolError):
    """A message that is no command. `id` is the message's own, empty when it has no usable one."""

    def __init__(
        self, message: str, *, id: str = "", field: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(ErrorCode.BAD_MESSAGE, message, field=field, hint=hint)
        self.id = id


class MessageTooLarge(ProtocolError):
    """A message past the limit. `id` is the message's own, empty when it has no usable one."""

    def __init__(self, size: int, limit: int, *, id: str = "") -> None:
        super().__init__(
            ErrorCode.TOO_LARGE,
            f"the message has {size} bytes; the limit is {limit}",
            hint="put long text into a file of the project and name the file",
        )
        self.id = id


class CloseCode(IntEnum):
    GOING_AWAY = 1001
    ABNORMAL = 1006
    RESTART = 1012
    OVERLOADED = 1013
    BAD_MESSAGE = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    UNSUPPORTED = 4406
    STALLED = 4408
    TOO_LARGE = 4413
    RATE_LIMITED = 4429


class CloseRule(NamedTuple):
    reason: str
    reconnect: bool
    """Whether a client should come back (with back-off and jitter)."""


CLOSE_RULES: dict[CloseCode, CloseRule] = {
    CloseCode.GOING_AWAY: CloseRule("going away", reconnect=True),
    CloseCode.ABNORMAL: CloseRule("connection lost", reconnect=True),
    CloseCode.RESTART: CloseRule("server restarts", reconnect=True),
    CloseCode.OVERLOADED: CloseRule("server overloaded", reconnect=True),
    CloseCode.BAD_MESSAGE: CloseRule("not a podium client", reconnect=False),
    CloseCode.UNAUTHENTICATED: CloseRule("sign in first", reconnect=False),
    CloseCode.FORBIDDEN: CloseRule("not allowed", reconnect=False),
    CloseCode.UNSUPPORTED: CloseRule("subprotocol podium.v1 is required", reconnect=False),
    CloseCode.STALLED: CloseRule("reader stalled", reconnect=True),
    CloseCode.TOO_LARGE: CloseRule("message too large", reconnect=False),
    CloseCode.RATE_LIMITED: CloseRule("too many messages", reconnect=True),
}
