"""Who is asking: a bearer token, or the session cookie with Origin and Host on the allow-list.

Starlette's CORS and HTTP middlewares do not run for WebSockets, so this check is called by the
routes themselves, the same one for HTTP and for the socket.
"""

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import UserId
from server.addresses import host_name, origin_of
from server.guards import TOKEN_LENGTH
from server.http.public import SessionCookie
from server.ports import Clock
from server.settings import LOOPBACK, Settings

LOCAL_USER = UserId("local")
SESSION_SECONDS = 30 * 24 * 3600


class Refused(ProtocolError):
    """A request that is not allowed in; `status` is its HTTP status."""

    def __init__(self, status: int, code: ErrorCode, message: str, *, hint: str) -> None:
        super().__init__(code, message, hint=hint)
        self.status = status


def local_token(settings: Settings) -> str:
    """The local user's token: from the settings, else made once and kept in DIR/token (0600)."""
    if settings.token:
        return settings.token
    path = settings.directory / "token"
    try:
        token = path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        token = ""
    # One that a crash left empty, or somebody cut, would let everyone in.
    return token if len(token) >= TOKEN_LENGTH else _new_token(path)


def _new_token(path: Path) -> str:
    """Whole or not there, and for its owner only from the first byte on."""
    token = secrets.token_urlsafe(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=".token-", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    Path(fresh).replace(path)
    return token


class SignIn:
    """Decides about credentials, origins and hosts. It holds the token and nothing that changes."""

    def __init__(
        self,
        token: str,
        *,
        hosts: Sequence[str],
        origins: Sequence[str],
        cookie: SessionCookie,
        clock: Clock,
    ) -> None:
        self.cookie = cookie
        self._token = token.encode()
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._clock = clock

    def identify(self, headers: Headers, cookies: dict[str, str], *, unsafe: bool) -> UserId:
        """The user of a request; raises Refused.

        `unsafe` requests (that change something, or open the socket) need an Origin on the
        allow-list when a cookie signs them in; a bearer token passes without one.
        """
        self.check_place(headers)
        bearer = headers.get("authorization")
        if bearer is not None:
            return self._by_bearer(bearer)
        if not self._session_holds(self.cookie.read(headers, cookies) or ""):
            raise Refused(
                401,
                ErrorCode.UNAUTHENTICATED,
                "sign in first",
                hint="send `Authorization: Bearer TOKEN`, or POST the token to /api/session",
            )
        if unsafe and "origin" not in headers:
            raise _foreign("a request signed in by cookie needs an Origin header")
        return LOCAL_USER

    def identify_socket(self, headers: Headers, cookies: dict[str, str]) -> UserId | None:
        """The user of a socket; None for one without credentials from an allowed Origin, which may
        say `hello` with a ticket. Raises Refused."""
        offered = "authorization" in headers or self.cookie.read(headers, cookies) is not None
        if offered or "origin" not in headers:
            return self.identify(headers, cookies, unsafe=True)
        self.check_place(headers)
        return None

    def check_place(self, headers: Headers) -> None:
        """Refuse a Host or an Origin that is not ours (DNS rebinding, other sites' pages)."""
        host = host_name(headers.get("host", ""))
        if host not in self._hosts:
            raise _foreign(f"the host `{host}` is not one of this server")
        origin = headers.get("origin")
        if origin is not None and not self._ours(origin, headers.get("host", "")):
            raise _foreign(f"the origin `{origin[:200]}` is not allowed")

    def open_session(self, token: str) -> str:
        """The cookie's value for a right token; raises Refused."""
        self._check(token)
        expires = int(self._clock.now().timestamp()) + SESSION_SECONDS
        return f"{expires}.{self._seal(str(expires))}"

    def _by_bearer(self, header: str) -> UserId:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise _bad_token()
        self._check(token.strip())
        return LOCAL_USER

    def _check(self, token: str) -> None:
        if not hmac.compare_digest(token.encode(), self._token):
            raise _bad_token()

    def _session_holds(self, value: str) -> bool:
        expires, _, seal = value.partition(".")
        return (
            hmac.compare_digest(seal.encode(), self._seal(expires).encode())
            and expires.isascii()
            and expires.isdecimal()
            and int(expires) > self._clock.now().timestamp()
        )

    def _seal(self, text: str) -> str:
        return hmac.new(self._token, b"session:" + text.encode(), hashlib.sha256).hexdigest()

    def _ours(self, origin: str, host: str) -> bool:
        origin = origin.lower().rstrip("/")
        return origin in self._origins or origin in (f"http://{host}", f"https://{host}")


def allowed_hosts(settings: Settings) -> list[str]:
    """The names under which this server may be asked."""
    names = [*LOOPBACK, settings.host]
    public = urlsplit(settings.public_url).hostname
    return [*names, public] if public else names


def allowed_origins(settings: Settings) -> list[str]:
    public = [settings.public_url] if settings.public_url else []
    return [origin_of(url) for url in (*settings.allowed_origins, *public)]


def _foreign(message: str) -> Refused:
    return Refused(
        403,
        ErrorCode.FORBIDDEN,
        message,
        hint="set public_url or allowed_origins in the settings if this place is yours",
    )


def _bad_token() -> Refused:
    return Refused(
        401, ErrorCode.UNAUTHENTICATED, "the token is not right", hint="it is in DIR/token"
    )
