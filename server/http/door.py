"""The door: how many connections are let in.

It stands before HTTP is read, so that what is refused costs next to nothing, and descriptors are
left for the store and for agents whoever asks how much.
"""

import asyncio
from typing import Any, cast

from uvicorn.server import ServerState

from server.http.bounded import bounded
from server.logs import logger

log = logger(__name__)

REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: 58\r\n\r\n"
    b'{"error":"busy","message":"the server has no more room"}\r\n'
)
LINGER_SECONDS = 1.0
"""So long a refusal waits for the request that it answers: a connection that is closed before it
comes is reset, and the client may never see why."""
MOST_LINGERING = 64


def door(most: int) -> type[asyncio.Protocol]:
    """What uvicorn makes for each connection: one that is bounded, or a refusal when it has
    `most`."""
    turned_away: set[asyncio.Protocol] = set()
    connection = bounded()

    def protocol(server_state: ServerState, **kwargs: Any) -> asyncio.Protocol:
        if len(server_state.connections) >= most:
            return TurnedAway(turned_away)
        return connection(server_state=server_state, **kwargs)

    return cast(type[asyncio.Protocol], protocol)


class TurnedAway(asyncio.Protocol):
    """Says 503 and goes; when many are being told so, it just goes."""

    def __init__(self, others: set[asyncio.Protocol]) -> None:
        self._others = others

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._others) >= MOST_LINGERING:
            transport.abort()
            return
        if not self._others:
            log.warning("no_room_for_a_connection")
        self._others.add(self)
        transport.write(REFUSAL)
        asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._others.discard(self)
