"""The contracts, served: made once at start, and the same for everybody."""

import hashlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.contracts import asyncapi_json, openapi_json
from server.settings import Settings


def documents(settings: Settings) -> dict[str, bytes]:
    """Every contract that a server with these settings serves, by its path. It reads files."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "/openapi.json": openapi_json(settings.public_url),
        "/asyncapi.json": asyncapi_json(settings.public_url or f"http://{host}:{settings.port}"),
    }


def contract_routes(contracts: Mapping[str, bytes]) -> list[Route]:
    """They say nothing of a user or a run, so they need no sign-in."""
    return [Route(path, _Contract(data).answer) for path, data in contracts.items()]


class _Contract:
    """One document, with the tag that names exactly these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'

    async def answer(self, request: Request) -> Response:
        headers = {"ETag": self._tag}
        if self._tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self._data, media_type="application/json", headers=headers)
