"""One connection of a stranger: HTTP that cannot grow, wait or pile up without end. A WebSocket
leaves here with its handshake."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

from server.guarded_http import GuardedConnection

HEAD_BYTES = 32 * 1024
"""Of a request line and its headers; browsers send some 1,000."""
HEAD_SECONDS = 10.0
"""From the connection, or from the first byte of a further request, to the end of its headers."""
BODY_SECONDS = 30.0
"""From there to the end of the body."""
LINGER_SECONDS = 2.0
"""So long is read, and thrown away, after a refusal: a connection that is closed with bytes unread
is reset, and the peer may never see why."""

LATE, LARGE = "408 Request Timeout", "431 Request Header Fields Too Large"


class Connection(GuardedConnection):
    """Ends the connection when a bound is passed, and says why where that can be said."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        others: dict[GuardedConnection, None],
        logger: logging.Logger,
    ) -> None:
        """`others`: all connections of this server that are no sockets, the oldest first."""
        protocol: Any = AutoHTTPProtocol
        http = protocol(config, server_state, app_state, _loop)
        http.logger = logger
        super().__init__(http, others=others, head_seconds=HEAD_SECONDS)
        self._over = False

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self.idle and self._body_is_coming:
            # It was answered before its end, and the rest is nothing to anybody.
            self._end()
            return
        before, body = self._http.cycle, self._body_is_coming
        self._await_head()
        self._http.data_received(data)
        if self._transport.get_protocol() is not self:
            self._forget()
        elif self._http.cycle is not before or body:
            self._asked, self._head = True, 0
            self._request_came(new=not body)
        else:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._refuse(LARGE)

    def _request_came(self, *, new: bool) -> None:
        """Its headers, or more of its body: the time is that of the body, and ends with it."""
        if not self._body_is_coming:
            self._stop_timer()
        elif new:
            self._set_timer(BODY_SECONDS, self._late)

    def _late(self) -> None:
        self._refuse(LATE)

    def _refuse(self, status: str) -> None:
        """Say why, where no answer is under way, and end the connection."""
        if not self.idle:
            if self._http.cycle.response_started:
                self.cut()
                return
            # The route that waits for the body learns that it has gone, and can answer no more.
            self._http.cycle.disconnected = True
            self._http.cycle.message_event.set()
        if self._head or self._asked:
            head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            self._transport.write(head.encode())
        self._end()

    def _end(self) -> None:
        """Take nothing more, and free the connection soon."""
        self._over = True
        self._set_timer(LINGER_SECONDS, self.cut)
        if self._transport.can_write_eof():
            self._transport.write_eof()


def bounded() -> Callable[..., Connection]:
    """What uvicorn is to make of each connection of one server."""
    # Whoever sends no HTTP is nothing for a log: it would be theirs to fill.
    logger = logging.getLogger("uvicorn.error.connection")
    logger.setLevel(logging.ERROR)
    return partial(Connection, others={}, logger=logger)
