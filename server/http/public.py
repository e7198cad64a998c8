"""Where browsers find this server: below which path, and with which cookie.

`public_url` may have a path, as `https://tools.example.com/podium`. A proxy may then hand on that
path or take it off; both work, and so does asking the server directly.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.addresses import host_name, is_loopback, origin_of, path_of

NAME = "podium_session"


class Cookie(NamedTuple):
    """A session cookie's name, and what it is sent along with."""

    name: str
    path: str
    secure: bool

    @property
    def attributes(self) -> dict[str, Any]:
        """To set it, and to delete it: a browser lets go of a cookie only under the same ones."""
        return {
            "path": self.path,
            "secure": self.secure,
            "httponly": True,
            "samesite": "strict",
        }


class SessionCookie:
    """The cookie of the public address, and that of a browser on this machine that asks directly.

    Over https it is `Secure`, whatever the proxy speaks with podium, and its name binds it: no
    browser takes `__Host-…` or `__Secure-…` from a plain page, or for other hosts. `__Host-` is for
    a whole host; below a path it is `__Secure-`, and the path keeps it from the host's other pages.
    """

    def __init__(self, public_url: str) -> None:
        self._origin = origin_of(public_url) if public_url else None
        self._direct = Cookie(NAME, "/", secure=False)
        self.public = _public(public_url) if public_url else self._direct

    def written(self, headers: Headers) -> Cookie:
        """The cookie for the address that this request was sent to."""
        return self._direct if self._is_direct(headers) else self.public

    def read(self, headers: Headers, cookies: Mapping[str, str]) -> str | None:
        """The value that a request has brought. The plain name counts only on this machine."""
        value = cookies.get(self.public.name)
        if value is None and self._is_direct(headers):
            value = cookies.get(self._direct.name)
        return value

    def _is_direct(self, headers: Headers) -> bool:
        """A proxy may put the address by which it asks us in place of the Host: an Origin tells."""
        asked_here = is_loopback(host_name(headers.get("host", "")))
        return asked_here and (self._origin is None or headers.get("origin") != self._origin)


def _public(public_url: str) -> Cookie:
    path = path_of(public_url)
    if urlsplit(public_url).scheme != "https":
        return Cookie(NAME, path or "/", secure=False)
    prefix = "__Secure-" if path else "__Host-"
    return Cookie(prefix + NAME, path or "/", secure=True)


class BelowPath:
    """Pure ASGI middleware: the routes are found with the path of `public_url` before them, too.

    The path itself, without a slash at its end, leads to the page: its links are relative.
    """

    def __init__(self, app: ASGIApp, path: str) -> None:
        self.app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] in ("http", "websocket") and self._path:
            if scope["path"].startswith(self._path + "/"):
                scope = {**scope, "root_path": self._path}
            elif scope["path"] == self._path and scope["type"] == "http":
                app = Response(status_code=308, headers={"location": self._path + "/"})
        await app(scope, receive, send)
