"""What every route begins with: who asks, for which run, and how a refusal is answered."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.types import ASGIApp

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import RunId, UserId, is_uuid
from protocol.rest import InvalidRequest
from server.access import visible_run
from server.http.answers import invalid, json, refusal
from server.http.sign_in import SignIn
from server.ports import RunRecord, Store, StoreUnavailable

Handler = Callable[[Request, UserId], Awaitable[ASGIApp]]
"""A Starlette response is an ASGI application."""


class InvalidId(Exception):
    """The id in the path is no UUID."""


def signed_in(sign_in: SignIn, handler: Handler) -> Callable[[Request], Awaitable[ASGIApp]]:
    """Sign in first, then answer; every refusal has its shape."""

    async def answer(request: Request) -> ASGIApp:
        try:
            unsafe = request.method != "GET"
            user = sign_in.identify(request.headers, request.cookies, unsafe=unsafe)
            return await handler(request, user)
        except InvalidId:
            return json({"error": "invalid id"}, 400)
        except InvalidRequest as error:
            return invalid(error)
        except StoreUnavailable as error:
            return refusal(ProtocolError(ErrorCode.STORE_UNAVAILABLE, str(error)))
        except ProtocolError as error:
            if error.code is ErrorCode.NOT_FOUND and error.field == "run_id":
                return json({"error": "run not found"}, 404)
            return refusal(error)

    return answer


async def run_of(store: Store, request: Request, user: UserId) -> RunRecord:
    """The run that the path names, if it is the user's."""
    run_id = request.path_params["id"]
    if not is_uuid(run_id):
        raise InvalidId
    return await visible_run(store, user, RunId(run_id))
