"""Bodies of requests: bounded, and JSON by what they say of themselves."""

from starlette.requests import ClientDisconnect, Request

from protocol.errors import ErrorCode, ProtocolError
from protocol.rest import INVALID_BODY, InvalidRequest
from server.http.refused import Refused

MAX_BODY = 1024 * 1024


async def json_body(request: Request) -> bytes:
    """The body, at most 1 MiB, of a request that says it is JSON."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise Refused(
            415,
            ErrorCode.BAD_MESSAGE,
            f"the body is `{kind[:100]}`",
            hint="send JSON with Content-Type: application/json",
        )
    if int(request.headers.get("content-length", "0")) > MAX_BODY:
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY:
                raise _too_large()
            chunks.append(chunk)
    except ClientDisconnect:
        # Nobody reads this; but it is no failure of ours.
        raise InvalidRequest(INVALID_BODY, ["the body has no end"], {}) from None
    return b"".join(chunks) or b"{}"


def _too_large() -> ProtocolError:
    return ProtocolError(
        ErrorCode.TOO_LARGE, f"the body is larger than {MAX_BODY} bytes", field="body"
    )
