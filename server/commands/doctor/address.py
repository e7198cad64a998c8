"""What `podium doctor` finds when it asks at `public_url`: through the proxy, as browsers do.

Nothing secret is sent: who answers there may be somebody else.
"""

import asyncio
import base64
import os
from typing import TypeVar

import httpx
import msgspec
from msgspec import Struct

from protocol.rest import Draining, ErrorBody, Ready
from protocol.schema import SUBPROTOCOL
from server.addresses import authority, origin_of
from server.certificates import authorities
from server.commands.doctor.diagnosis import Diagnosis, warning
from server.local import running_server
from server.settings import Settings

NAME = "public_url"
WAIT_SECONDS = 10.0
MOST_BYTES = 64 * 1024
"""Of an answer, which may be anybody's."""
HOST = "the proxy must pass on `Host` and `Origin` as they came: see docs/proxies.md"

T = TypeVar("T")


class Answer(Struct, frozen=True):
    status: int
    body: bytes
    protocol: str = ""
    """The subprotocol of a socket that has opened."""


async def public_address(settings: Settings) -> list[Diagnosis]:
    """Nothing where `public_url` is not set."""
    if not settings.public_url:
        return []
    if await running_server(settings.directory) is None:
        says = f"{settings.public_url} is not asked: no server runs that could answer"
        return [warning(NAME, says, "podium serve")]
    trusted = await asyncio.to_thread(authorities, settings.public_url)
    async with httpx.AsyncClient(
        base_url=settings.public_url, verify=trusted, timeout=WAIT_SECONDS, trust_env=False
    ) as http:
        return await asked(http, settings)


async def asked(http: httpx.AsyncClient, settings: Settings) -> list[Diagnosis]:
    """Ask for readiness, and for the socket where that is answered."""
    found: list[Diagnosis] = []
    try:
        found.append(_readiness(await _get(http, "readyz", {}), settings))
        if found[0].well:
            socket = await _get(http, "api/ws", _upgrade(settings.public_url))
            found.append(_socket(socket, settings))
    except (httpx.HTTPError, TimeoutError) as error:
        where = "its WebSocket" if found else settings.public_url
        says = f"nothing answers at {where}: {str(error) or type(error).__name__}"
        hint = "is the proxy running, does its name lead there, and is its certificate trusted?"
        found.append(warning(NAME, says, hint))
    return found


async def _get(http: httpx.AsyncClient, path: str, headers: dict[str, str]) -> Answer:
    """Raises httpx.HTTPError and TimeoutError."""
    plain = {"Accept-Encoding": "identity", **headers}
    async with (
        asyncio.timeout(WAIT_SECONDS),
        http.stream("GET", path, headers=plain) as response,
    ):
        body = b""
        if response.status_code != 101:
            async for part in response.aiter_raw(MOST_BYTES):
                body = part  # podium's answers are no longer than one part
                break
        protocol = response.headers.get("sec-websocket-protocol", "")
        return Answer(response.status_code, body, protocol)


def _upgrade(url: str) -> dict[str, str]:
    """The handshake of a page that is not signed in: podium lets it in, and waits for a ticket."""
    return {
        "Origin": origin_of(url),
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Protocol": SUBPROTOCOL,
    }


def _readiness(answer: Answer, settings: Settings) -> Diagnosis:
    url = settings.public_url.rstrip("/")
    if answer.status == 200 and _read(answer.body, Ready) is not None:
        return Diagnosis(NAME, True, f"podium answers at {url}/", required=False)
    if answer.status == 503 and _read(answer.body, Draining) is not None:
        return warning(NAME, f"podium stops at this moment at {url}", "try again")
    return _other(answer, f"{url}/readyz", settings)


def _socket(answer: Answer, settings: Settings) -> Diagnosis:
    if answer.status == 101 and answer.protocol == SUBPROTOCOL:
        return Diagnosis(NAME, True, "its WebSocket opens", required=False)
    return _other(answer, f"{settings.public_url.rstrip('/')}/api/ws", settings)


def _other(answer: Answer, url: str, settings: Settings) -> Diagnosis:
    """Podium says itself what it misses; what stands before it has only its status."""
    refused = _read(answer.body, ErrorBody)
    if refused is None:
        says = f"{url} is answered with HTTP {answer.status}, and not by podium"
        return warning(NAME, says, _way_out(answer.status, settings))
    hint = HOST if answer.status == 403 else refused.hint
    return warning(NAME, f"{url} is answered with HTTP {answer.status}: {refused.message}", hint)


def _way_out(status: int, settings: Settings) -> str:
    match status:
        case 401 | 403:
            return "a sign-in of the proxy's is no fault: sign in, and the page must say `live`"
        case 404:
            return "the proxy must hand on this path, with what follows it"
        case 502 | 503 | 504:
            return f"the proxy must lead to podium, at {authority(settings.host, settings.port)}"
        case _ if 300 <= status < 400:
            return "public_url is the address that is answered itself: its scheme, host and path"
        case _:
            return "see docs/proxies.md for the lines that a proxy needs"


def _read(body: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError:
        return None
