"""Bodies of requests: bounded, JSON, and decoded into Structs."""

from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from protocol.errors import ErrorCode, ProtocolError
from protocol.rest import InvalidRequest
from server.http.refused import Refused

MAX_BODY = 1024 * 1024

T = TypeVar("T")


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
        raise ProtocolError(ErrorCode.BAD_MESSAGE, "the body has no end", field="body") from None
    return b"".join(chunks) or b"{}"


def decode(body: bytes, kind: type[T]) -> T:
    """Raises InvalidRequest."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidRequest.from_decoding("invalid body", error) from error
    except RecursionError:
        raise InvalidRequest("invalid body", ["the JSON is nested too deeply"], {}) from None


def _too_large() -> ProtocolError:
    return ProtocolError(
        ErrorCode.TOO_LARGE, f"the body is larger than {MAX_BODY} bytes", field="body"
    )
