"""Who is asking: a bearer token, the session cookie, or the word of a trusted proxy; the latter two
with Origin and Host on the allow-list.

Starlette's CORS and HTTP middlewares do not run for WebSockets, so this check is called by the
routes themselves, the same one for HTTP and for the socket.
"""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from protocol.errors import ErrorCode, ProtocolError
from protocol.users import UserKind
from server.addresses import host_name, origin_of
from server.http.peers import Peers
from server.http.public import SessionCookie
from server.http.sessions import Sessions
from server.ports import Clock
from server.settings import LOOPBACK, Settings
from server.users.accounts import Accounts
from server.users.audit import Audit, Deed, Entry
from server.users.directory import Guest, Way
from server.users.throttle import Throttle
from server.users.tokens import digest_of, kept_secret
from server.users.visits import Visits

SINGLE = ("host", "origin", "authorization")
"""Headers that two readers could take differently when they come twice."""


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


class Places(NamedTuple):
    """Where this server may be asked, and by which pages."""

    hosts: Sequence[str]
    origins: Sequence[str]
    user_header: str = ""
    """In which trusted proxies name the user."""
    public_url: str = ""


class SignIn:
    """Decides about credentials, origins and hosts, and has what belongs to it: who may come in,
    who is here, and what is written down."""

    def __init__(
        self,
        accounts: Accounts,
        places: Places,
        *,
        peers: Peers,
        sessions: Sessions,
        visits: Visits,
        audit: Audit,
        clock: Clock,
    ) -> None:
        self.accounts = accounts
        self.visits = visits
        self.audit = audit
        self.public_url = places.public_url
        self.cookie = SessionCookie(places.public_url)
        self._hosts = frozenset(host.lower() for host in places.hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in places.origins)
        self._user_header = places.user_header
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
        self.check_place(connection.headers)
        guest = self._guest(connection)
        if unsafe and guest.way is not Way.BEARER and "origin" not in connection.headers:
            raise _foreign(f"a request signed in by {guest.way} needs an Origin header")
        return guest

    def identify_socket(self, connection: HTTPConnection) -> Guest | None:
        """Whoever opens a socket; None for one without credentials from an allowed Origin, which
        may say `hello` with a ticket. Raises Refused."""
        headers = connection.headers
        offered = (
            "authorization" in headers or self.cookie.read(headers, connection.cookies) is not None
        )
        offered = offered or bool(self._named(headers))
        if not offered and "origin" in headers:
            self.check_place(headers)
            return None
        guest = self.identify(connection, unsafe=True)
        check_not_service(guest)
        return guest

    def check_place(self, headers: Headers) -> None:
        """Refuse a Host or an Origin that is not ours (DNS rebinding, other sites' pages)."""
        for name in SINGLE:
            if len(headers.getlist(name)) > 1:
                raise _foreign(f"the header `{name}` came more than once")
        host = host_name(headers.get("host", ""))
        if host not in self._hosts:
            raise _foreign(f"the host `{host[:200]}` is not one of this server")
        origin = headers.get("origin")
        if origin is not None and not self._ours(origin, headers.get("host", "")):
            raise _foreign(f"the origin `{origin[:200]}` is not allowed")

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

    def _ours(self, origin: str, host: str) -> bool:
        origin = origin.lower().rstrip("/")
        return origin in self._origins or origin in (f"http://{host}", f"https://{host}")


def local_token(settings: Settings) -> str:
    """The local user's token: from the settings, else made once and kept in DIR/token (0600)."""
    return settings.token or kept_secret(settings.directory / "token")


def check_not_service(guest: Guest) -> None:
    """Refuse a service account everything but minting tickets."""
    if guest.kind is UserKind.SERVICE:
        raise Refused(
            403,
            ErrorCode.FORBIDDEN,
            "a service token only mints tickets on behalf of users",
            hint='POST /api/ws-ticket {"on_behalf_of": NAME}; the user\'s own socket does the rest',
        )


def places_of(settings: Settings) -> Places:
    """The names under which this server may be asked, and the pages that may ask it."""
    hosts = [*LOOPBACK, settings.host]
    origins = [origin_of(url) for url in settings.allowed_origins]
    public = urlsplit(settings.public_url)
    if public.hostname:
        hosts.append(public.hostname)
        origins.append(origin_of(settings.public_url))
    return Places(hosts, origins, settings.proxy_user_header, settings.public_url)


def _foreign(message: str) -> Refused:
    return Refused(
        403,
        ErrorCode.FORBIDDEN,
        message,
        hint="set public_url or allowed_origins in the settings if this place is yours",
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
