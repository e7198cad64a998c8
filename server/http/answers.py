"""How REST answers: JSON from Structs, and one table from error codes to HTTP statuses."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from protocol.errors import ErrorCode, ProtocolError
from protocol.rest import InvalidRequest
from server.http.sign_in import Refused
from server.stopping import Stopping

STATUS: dict[ErrorCode, int] = {
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


def json(body: object, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(body), status, media_type="application/json", headers=headers
    )


def refusal(error: ProtocolError) -> Response:
    """`{error: code, message, field?, hint?}` with the status of the code."""
    body: dict[str, object] = {"error": error.code.value, "message": error.message}
    if error.field is not None:
        body["field"] = error.field
    if error.hint is not None:
        body["hint"] = error.hint
    status = error.status if isinstance(error, Refused) else STATUS[error.code]
    if isinstance(error, Stopping):
        status = 503
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if error.retry_after_ms is not None:
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    return json(body, status, headers=headers)


def invalid(error: InvalidRequest) -> Response:
    """`{error: "invalid body", details: {formErrors, fieldErrors}}`, likewise for a query."""
    details = {"formErrors": error.form_errors, "fieldErrors": error.field_errors}
    return json({"error": error.what, "details": details}, 400)
