"""A refusal whose HTTP status is not that of its code."""

from protocol.errors import ErrorCode, ProtocolError


class Refused(ProtocolError):
    """A request that is not allowed in; `status` is its HTTP status."""

    def __init__(
        self,
        status: int,
        code: ErrorCode,
        message: str,
        *,
        hint: str,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(code, message, hint=hint, retry_after_ms=retry_after_ms)
        self.status = status
