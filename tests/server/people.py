"""Several users of one podium, and requests with exactly the headers that a test says."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosedError

from server.ports import Clock
from tests.fakes.agent import FakeAgent
from tests.server.harness import WAIT_SECONDS, House, Socket, house

Headers = Sequence[tuple[str, str]]


class Person(NamedTuple):
    name: str
    token: str
    token_id: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@asynccontextmanager
async def shared_house(
    place: Path, *, agent: FakeAgent | None = None, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[House]:
    """A podium whose settings allow several users."""
    roots = {"project_roots": [str(place)], **changes}
    async with house(place, agent=agent, clock=clock, **roots) as home:
        yield home


async def admit(home: House, name: str, *projects: Path | str, **more: Any) -> Person:
    """Let somebody in, as a member of these projects."""
    body = {"name": name, "projects": [str(path) for path in projects], **more}
    answer = await home.http.post("/api/users", json=body)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    return Person(name, found["token"], found["token_id"])


def socket_of(home: House, person: Person, **headers: str) -> Any:
    """An open socket of somebody, as a context manager."""
    return home.socket(**person.bearer, **headers)


async def closed_with(wire: Socket) -> int | None:
    """Read to the end of a socket; its close code."""
    with suppress(ConnectionClosedError):
        async with asyncio.timeout(WAIT_SECONDS):
            async for _ in wire.connection:
                pass
    return wire.connection.close_code


class Answer(NamedTuple):
    status: int
    body: bytes


async def asked(home: House, method: str, path: str, headers: Headers, body: bytes = b"") -> Answer:
    """One request over a connection of its own. Without a Host among the headers it has none."""
    place = urlsplit(home.url)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    lines += ["Connection: close"] if not path.endswith("/ws") else []
    lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"] if body else []
    async with asyncio.timeout(WAIT_SECONDS):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split()[1])
            rest = b"" if status == 101 else await reader.read()
            return Answer(status, rest)
        finally:
            writer.close()


def host_of(home: House) -> str:
    return urlsplit(home.url).netloc


def upgrade() -> list[tuple[str, str]]:
    """The headers of a WebSocket handshake."""
    return [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
        ("Sec-WebSocket-Protocol", "podium.v1"),
    ]
