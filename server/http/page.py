"""The page, and the headers of every answer: what a browser may load, and where it may be shown."""

import os
from pathlib import Path

from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

WEB = Path(__file__).parents[1] / "web"
CLIENT = "client.js"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)


class Page(StaticFiles):
    """The files of the page. Pages of other sites may import its client, which is the same for
    everyone."""

    def __init__(self, path: str) -> None:
        """`path` is that of `public_url`."""
        super().__init__(directory=WEB, html=True, check_dir=False)
        self._home = path + "/"

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A folder without its slash, as `/x/..`, leads to the page. Starlette would send people to
        whatever Host the request names."""
        response = await super().get_response(path, scope)
        if isinstance(response, RedirectResponse):
            return Response(status_code=308, headers={"location": self._home})
        return response

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        if Path(full_path).name == CLIENT:
            response.headers["access-control-allow-origin"] = "*"
        return response


class SafeHeaders:
    """Pure ASGI middleware: every answer forbids foreign content, framing and sniffing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", CONTENT_POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)
