"""Who is asking: a bearer token, the session cookie, or the word of a trusted proxy; the latter two
with Origin and Host on the allow-list.

Starlette's CORS and HTTP middlewares do not run for WebSockets, so this check is called by the
routes themselves, the same one for HTTP and for the socket.
"""

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from protocol.errors import ErrorCode, ProtocolError
from protocol.users import UserKind
from server.http.allow_list import AllowList, foreign
from server.http.peers import Peers
from server.http.public import SessionCookie
from server.http.refused import Refused
from server.http.sessions import Sessions
from server.ports import Clock
from server.users.accounts import Accounts
from server.users.audit import Audit, Deed, Entry
from server.users.directory import Guest, Way
from server.users.throttle import Throttle
from server.users.tokens import digest_of
from server.users.visits import Visits


class SignIn:
    """Decides about credentials, origins and hosts, and has what belongs to it: who may come in,
    who is here, and what is written down."""

    def __init__(
        self,
        accounts: Accounts,
        allow_list: AllowList,
        *,
        public_url: str,
        user_header: str,
        peers: Peers,
        sessions: Sessions,
        visits: Visits,
        audit: Audit,
        clock: Clock,
    ) -> None:
        """`user_header`: in which trusted proxies name the user; empty where they name none."""
        self.accounts = accounts
        self.visits = visits
        self.audit = audit
        self.allow_list = allow_list
        self.public_url = public_url
        self.cookie = SessionCookie(public_url)
        self._user_header = user_header
        self._peers = peers
        self._sessions = sessions
        self._throttle = Throttle(clock)
        self._clock = clock

    def identify(self, connection: HTTPConnection, *, unsafe: bool) -> Guest:
        """Whoever asks; raises Refused.

        `unsafe` requests (that change something, or open the socket) need an Origin on the
        allow-list when a cookie or a proxy signs them in, because a browser sends those by itself;
        a bearer token passes without one.
        """
        self.allow_list.check(connection.headers)
        guest = self._guest(connection)
        if unsafe and guest.way is not Way.BEARER and "origin" not in connection.headers:
            raise foreign(f"a request signed in by {guest.way} needs an Origin header")
        return guest

    def identify_socket(self, connection: HTTPConnection) -> Guest | None:
        """Whoever opens a socket; None for one without credentials from an allowed Origin, which
        may say `hello` with a ticket. Raises Refused.

        A browser sends its cookie by itself, and no page can take it back: one that signs nobody in
        any more is none, or it would keep out whoever brings a ticket.
        """
        headers = connection.headers
        offered = "authorization" in headers or bool(self._named(headers))
        offered = offered or self.session_of(connection) is not None
        if not offered and "origin" in headers:
            self.allow_list.check(headers)
            return None
        guest = self.identify(connection, unsafe=True)
        check_not_service(guest)
        return guest

    def open_session(self, token: str, connection: HTTPConnection) -> tuple[Guest, str, int]:
        """For a right token: its bearer, the cookie's value, and its seconds. Raises Refused."""
        guest = self._by_token(token, connection)
        check_not_service(guest)
        return guest, *self._sessions.open(guest)

    def session_of(self, connection: HTTPConnection) -> Guest | None:
        """Whoever the cookie of a request signs in, if it does."""
        brought = self.cookie.read(connection.headers, connection.cookies)
        opened = self._sessions.read(brought or "")
        if opened is None:
            return None
        now, peer = self._clock.now().timestamp(), self.address(connection)
        directory = self.accounts.directory
        bearer = directory.bearer_of(opened.token, now=now, peer=peer)
        if bearer is None or opened.session in directory.people.ended_sessions:
            return None
        return Guest(
            user=bearer.user,
            kind=bearer.kind,
            way=Way.COOKIE,
            peer=peer,
            token=bearer.token,
            session=opened.session,
            expires=float(opened.expires),
        )

    def on_behalf(self, service: Guest, name: str) -> Guest:
        """A user as a service account speaks for one: the visit ends with the user, and with the
        service's token. Raises ProtocolError; the operator is nobody to speak for."""
        user = self.accounts.directory.active(name)
        if user is None or user.kind is not UserKind.USER:
            raise ProtocolError(
                ErrorCode.NOT_FOUND,
                "there is no such user",
                field="on_behalf_of",
                hint="the operator lets somebody in with `podium user add NAME`",
            )
        return Guest(
            user=user.id,
            kind=user.kind,
            way=service.way,
            peer=service.peer,
            token=service.token,
            expires=service.expires,
        )

    def stands(self, guest: Guest) -> bool:
        """Whether a sign-in still holds."""
        now = self._clock.now().timestamp()
        return self.accounts.directory.ended(guest, now=now) is None

    def address(self, connection: HTTPConnection) -> str:
        """Where a request comes from."""
        return self._peers.address(connection)

    def tell_refused(self, connection: HTTPConnection, error: ProtocolError) -> None:
        """Write down that somebody was not let in."""
        peer = self.address(connection)
        entry = Entry(what=Deed.SIGN_IN, outcome=error.code, peer=peer)
        self.audit.tell(entry, once=("refused", peer, error.message))

    def _guest(self, connection: HTTPConnection) -> Guest:
        """By the proxy if it says so; else by the token; else by the cookie."""
        headers = connection.headers
        named = self._named(headers)
        if named and self._peers.through_proxy(connection):
            return self._by_proxy(named, connection)
        bearer = headers.get("authorization")
        if bearer is not None:
            scheme, _, token = bearer.partition(" ")
            if scheme.lower() != "bearer":
                raise _bad_token()
            return self._by_token(token.strip(), connection)
        guest = self.session_of(connection)
        if guest is None and named:
            raise _not_believed(self._user_header)
        if guest is None:
            raise Refused(
                401,
                ErrorCode.UNAUTHENTICATED,
                "sign in first",
                hint="send `Authorization: Bearer TOKEN`, or POST the token to /api/session",
            )
        return guest

    def _named(self, headers: Headers) -> list[str]:
        """Whom the proxy's header names; empty where there is none, or none is listened to."""
        found = headers.getlist(self._user_header) if self._user_header else []
        return found if any(name.strip() for name in found) else []

    def _by_proxy(self, named: list[str], connection: HTTPConnection) -> Guest:
        user = self.accounts.directory.active(named[0].strip()) if len(named) == 1 else None
        # The operator and service accounts are not for a proxy to name: an account of that name
        # there would be everything here.
        if user is None or user.kind is not UserKind.USER:
            raise Refused(
                403,
                ErrorCode.FORBIDDEN,
                "the proxy names nobody who is a user here",
                hint="the operator lets somebody in with `podium user add NAME`",
            )
        return Guest(user=user.id, kind=user.kind, way=Way.PROXY, peer=self.address(connection))

    def _by_token(self, token: str, connection: HTTPConnection) -> Guest:
        peer, digest = self.address(connection), digest_of(token)
        wait = self._throttle.wait(peer, digest)
        if wait is not None:
            raise Refused(
                429,
                ErrorCode.RATE_LIMITED,
                "too many wrong tokens from this address",
                hint="wait, then try the right one",
                retry_after_ms=wait,
            )
        now = self._clock.now().timestamp()
        guest = self.accounts.directory.holder(token, now=now, peer=peer)
        if guest is None:
            self._throttle.wrong(peer, digest)
            raise _bad_token()
        self._throttle.right(peer, digest)
        return guest


def check_not_service(guest: Guest) -> None:
    """Refuse a service account everything but minting tickets."""
    if guest.kind is UserKind.SERVICE:
        raise Refused(
            403,
            ErrorCode.FORBIDDEN,
            "a service token only mints tickets on behalf of users",
            hint='POST /api/ws-ticket {"on_behalf_of": NAME}; the user\'s own socket does the rest',
        )


def _bad_token() -> Refused:
    return Refused(
        401,
        ErrorCode.UNAUTHENTICATED,
        "the token is not right",
        hint="the operator's is in DIR/token; yours may have expired or been revoked",
    )


def _not_believed(header: str) -> Refused:
    return Refused(
        401,
        ErrorCode.UNAUTHENTICATED,
        f"`{header}` is believed from a trusted proxy alone, and this address is none",
        hint="name your proxy in trusted_proxies, or sign in with a token",
    )
