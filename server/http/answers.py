"""How REST answers: JSON from Structs, and a refusal with the status of its code."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from protocol.errors import HTTP_STATUS, ProtocolError
from protocol.rest import ErrorBody, InvalidRequest
from server.http.refused import Refused
from server.stopping import Stopping


def json(body: object, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(body), status, media_type="application/json", headers=headers
    )


def refusal(error: ProtocolError) -> Response:
    """`{error: code, message, field?, hint?}` with the status of the code."""
    body = ErrorBody(error=error.code, message=error.message, field=error.field, hint=error.hint)
    status = _status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    return json(body, status, headers=headers)


def _status_of(error: ProtocolError) -> int:
    match error:
        case Refused():
            return error.status
        case Stopping():
            return 503
        case _:
            return HTTP_STATUS[error.code]


def invalid(error: InvalidRequest) -> Response:
    """`{error: "invalid body", details: {formErrors, fieldErrors}}`, likewise for a query."""
    return json(error.body, 400)
