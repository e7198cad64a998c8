"""What every route begins with: who asks, for which run, and how a refusal is answered."""

from collections.abc import Awaitable, Callable
from typing import cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import RunId, UserId, is_uuid
from protocol.rest import InvalidId, InvalidRequest, NoSuchRun
from server.access import visible_run
from server.http.answers import invalid, json, refusal
from server.http.sign_in import SignIn, check_not_service
from server.ports import RunRecord, Store, StoreUnavailable
from server.users.audit import OK, Deed
from server.users.deeds import entry_of, tell_sign_in
from server.users.directory import Guest, Way

Handler = Callable[[Request, UserId], Awaitable[ASGIApp]]
"""A Starlette response is an ASGI application."""

SAFE = ("GET", "HEAD")
"""What changes nothing."""
_MADE = (Deed.LAUNCH, Deed.RERUN)
"""Answered with 201; with 200 it is the run of an earlier time."""


class NoId(Exception):
    """The id in the path is no UUID."""


def signed_in(
    sign_in: SignIn, handler: Handler, deed: Deed | None = None, *, service: bool = False
) -> Callable[[Request], Awaitable[ASGIApp]]:
    """Sign in first, then answer; every refusal has its shape.

    `deed`: what the audit log calls it. `service`: whether a service account may ask it; every
    other route refuses one.
    """

    async def answer(request: Request) -> ASGIApp:
        try:
            guest = sign_in.identify(request, unsafe=request.method not in SAFE)
            request.app.state.rates.take(guest.user)
        except ProtocolError as error:
            sign_in.tell_refused(request, error)
            return refusal(error)
        request.scope["podium.guest"] = guest
        response, outcome = await _answered(request, guest, handler, service=service)
        _tell(sign_in, request, deed, response, outcome)
        return response

    return answer


async def _answered(
    request: Request, guest: Guest, handler: Handler, *, service: bool
) -> tuple[ASGIApp, str]:
    """The answer, and what the audit log says came of it."""
    try:
        if not service:
            check_not_service(guest)
        response = await handler(request, guest.user)
    except NoId:
        return json(InvalidId(), 400), "invalid"
    except InvalidRequest as error:
        return invalid(error), "invalid"
    except StoreUnavailable as error:
        unavailable = ProtocolError(ErrorCode.STORE_UNAVAILABLE, str(error))
        return refusal(unavailable), unavailable.code
    except ProtocolError as error:
        return _refused(error), error.code
    status = getattr(response, "status_code", 200)
    return response, OK if status < 400 else str(status)


def guest_of(request: Request) -> Guest:
    """Whoever asks, of a request that is signed in."""
    return cast(Guest, request.scope["podium.guest"])


def concerns(request: Request, **facts: str) -> None:
    """Say for the audit log what a request was about, beyond its path."""
    request.scope.setdefault("podium.facts", {}).update(facts)


async def run_of(store: Store, request: Request, user: UserId) -> RunRecord:
    """The run that the path names, if it is the user's."""
    run_id = request.path_params["id"]
    if not is_uuid(run_id):
        raise NoId
    return await visible_run(store, user, RunId(run_id))


def _refused(error: ProtocolError) -> Response:
    if error.code is ErrorCode.NOT_FOUND and error.field == "run_id":
        return json(NoSuchRun(), 404)
    return refusal(error)


def _tell(
    sign_in: SignIn, request: Request, deed: Deed | None, response: ASGIApp, outcome: str
) -> None:
    guest = guest_of(request)
    if guest.way is not Way.COOKIE:
        tell_sign_in(sign_in.audit, guest)
    if deed is None:
        return
    facts = request.scope.get("podium.facts", {})
    asked = request.path_params.get("id", "")
    run_id = facts.get("run_id") or (asked if is_uuid(asked) else "")
    entry = msgspec.structs.replace(
        entry_of(guest, deed, outcome=outcome, run_id=run_id),
        **{name: fact for name, fact in facts.items() if name != "run_id"},
    )
    again = deed in _MADE and getattr(response, "status_code", 201) == 200
    seen = (deed, guest.user, guest.peer, guest.token, run_id, outcome)
    repeated = again or deed in (Deed.VIEW, Deed.EXPORT)
    sign_in.audit.tell(entry, once=seen if repeated else None)
