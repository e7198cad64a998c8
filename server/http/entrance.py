"""Signing in and out, and tickets: the routes of `/api/session` and `/api/ws-ticket`."""

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import UserId
from protocol.rest import InvalidRequest, parse_body
from protocol.users import SessionBody, SessionInfo, SessionOpened, Ticket, TicketBody, UserKind
from server.http.answers import invalid, json, refusal
from server.http.asking import concerns, guest_of, signed_in
from server.http.bodies import json_body
from server.http.sign_in import SignIn
from server.http.tickets import TICKET_SECONDS, Tickets
from server.ports import StoreUnavailable
from server.users.audit import Deed
from server.users.deeds import entry_of
from server.users.directory import Guest
from server.world import rfc3339


class Entrance:
    def __init__(self, *, sign_in: SignIn, tickets: Tickets) -> None:
        self._sign_in = sign_in
        self._tickets = tickets

    def routes(self) -> list[Route]:
        ticket = signed_in(self._sign_in, self.ticket, Deed.TICKET, service=True)
        return [
            Route("/api/session", self.open_session, methods=["POST"]),
            Route("/api/session", signed_in(self._sign_in, self.session), methods=["GET"]),
            Route("/api/session", self.end_session, methods=["DELETE"]),
            Route("/api/ws-ticket", ticket, methods=["POST"]),
        ]

    async def open_session(self, request: Request) -> Response:
        """Set the cookie for a right token."""
        try:
            self._sign_in.allow_list.check(request.headers)
            body = parse_body(await json_body(request), SessionBody)
            guest, value, seconds = self._sign_in.open_session(body.token, request)
        except InvalidRequest as error:
            return invalid(error)
        except ProtocolError as error:
            self._sign_in.tell_refused(request, error)
            return refusal(error)
        self._tell(guest, Deed.SIGN_IN)
        response = json(SessionOpened(guest.user))
        cookie = self._sign_in.cookie.written(request.headers)
        response.set_cookie(cookie.name, value, max_age=seconds, **cookie.attributes)
        return response

    async def session(self, request: Request, user: UserId) -> Response:
        """Who is signed in."""
        guest = guest_of(request)
        info = SessionInfo(
            user_id=user, kind=guest.kind, way=guest.way, expires_at=_at(guest.expires)
        )
        return json(info)

    async def end_session(self, request: Request) -> Response:
        """Sign out: the session is over wherever its cookie is, and its sockets close. Whoever is
        signed out already is answered the same."""
        try:
            self._sign_in.allow_list.check(request.headers)
            guest = self._sign_in.session_of(request)
            if guest is not None and "origin" not in request.headers:
                raise ProtocolError(ErrorCode.FORBIDDEN, "signing out needs an Origin header")
            if guest is not None and guest.session is not None:
                ends = _at(guest.expires)
                assert ends is not None
                await self._sign_in.accounts.end_session(guest.session, expires_at=ends)
                self._tell(guest, Deed.SIGN_OUT)
        except ProtocolError as error:
            return refusal(error)
        except StoreUnavailable as error:
            return refusal(ProtocolError(ErrorCode.STORE_UNAVAILABLE, str(error)))
        response = Response(status_code=204)
        cookie = self._sign_in.cookie.written(request.headers)
        response.delete_cookie(cookie.name, **cookie.attributes)
        return response

    async def ticket(self, request: Request, user: UserId) -> Response:
        """A ticket for a socket of one's own; a service account names whose it is."""
        body = parse_body(await json_body(request), TicketBody)
        guest = self._holder(guest_of(request), body.on_behalf_of)
        if body.on_behalf_of is not None:
            concerns(request, user=guest.user)
        ticket = self._tickets.issue(guest)
        return json(Ticket(ticket, TICKET_SECONDS), 201)

    def _holder(self, guest: Guest, name: str | None) -> Guest:
        """Whose ticket it is to be; raises ProtocolError."""
        service = guest.kind is UserKind.SERVICE
        if not service and name is None:
            return guest
        if not service:
            raise ProtocolError(
                ErrorCode.FORBIDDEN,
                "only a service account speaks for others",
                field="on_behalf_of",
                hint="`podium user add NAME --service` makes one; for a ticket of your own leave"
                " it out",
            )
        if name is None:
            raise ProtocolError(
                ErrorCode.BAD_ARGUMENTS,
                "a service account names the user that the ticket is for",
                field="on_behalf_of",
                hint='POST {"on_behalf_of": NAME}',
            )
        return self._sign_in.on_behalf(guest, name)

    def _tell(self, guest: Guest, deed: Deed) -> None:
        self._sign_in.audit.tell(entry_of(guest, deed))


def _at(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(datetime.fromtimestamp(seconds, UTC))
