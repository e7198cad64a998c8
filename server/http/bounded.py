"""One connection of a stranger: HTTP that cannot grow, wait or pile up without end.

uvicorn trusts that a proxy stands before it: it keeps headers of any size, waits for them and for
bodies for ever, and takes any number of connections. A WebSocket leaves here with its handshake.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

HEAD_BYTES = 32 * 1024
"""Of a request line and its headers; browsers send some 1,000."""
HEAD_SECONDS = 10.0
"""From the connection, or from the first byte of a further request, to the end of its headers."""
BODY_SECONDS = 30.0
"""From there to the end of the body."""
LINGER_SECONDS = 2.0
"""So long is read, and thrown away, after a refusal: a connection that is closed with bytes unread
is reset, and the peer may never see why."""
MOST = 512
"""Connections at once, sockets not counted. Past it an idle one is cut, at first those that never
asked anything: an honest browser asks at once, and connects again."""

LATE, LARGE = "408 Request Timeout", "431 Request Header Fields Too Large"


class Connection(asyncio.Protocol):
    """Stands before uvicorn's own protocol, and ends the connection when a bound is passed."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        others: dict["Connection", None],
        logger: logging.Logger,
    ) -> None:
        """`others`: all connections of this server that are no sockets, the oldest first."""
        http: Any = AutoHTTPProtocol
        self._http = http(config, server_state, app_state, _loop)
        self._http.logger = logger
        self._others = others
        self._transport: asyncio.Transport
        self._head = 0
        """Bytes of headers that are not whole yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        self._over = False

    @property
    def idle(self) -> bool:
        """Nothing is asked, or all of it is answered."""
        return self._http.cycle is None or bool(self._http.cycle.response_complete)

    @property
    def _body_is_coming(self) -> bool:
        return self._http.cycle is not None and bool(self._http.cycle.more_body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._http.connection_made(transport)
        self._in_time(HEAD_SECONDS)
        self._others[self] = None
        if len(self._others) > MOST:
            idle = [other for other in self._others if other.idle]
            min(idle, key=lambda it: it._asked, default=self).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self.idle and self._body_is_coming:
            # It was answered before its end, and the rest is nothing to anybody.
            self._end()
            return
        before, body = self._http.cycle, self._body_is_coming
        if self._timer is None:
            self._in_time(HEAD_SECONDS)
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

    def eof_received(self) -> bool | None:
        result: bool | None = self._http.eof_received()
        return result

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def cut(self) -> None:
        self._forget()
        self._transport.abort()

    def _request_came(self, *, new: bool) -> None:
        """Its headers, or more of its body: the time is that of the body, and ends with it."""
        if not self._body_is_coming:
            self._take_time()
        elif new:
            self._in_time(BODY_SECONDS)

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
        self._in_time(LINGER_SECONDS)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _in_time(self, seconds: float) -> None:
        self._take_time()
        then = self.cut if self._over else self._late
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _take_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        self._others.pop(self, None)
        self._take_time()


def bounded() -> Callable[..., Connection]:
    """What uvicorn is to make of each connection of one server."""
    # Whoever sends no HTTP is nothing for a log: it would be theirs to fill.
    logger = logging.getLogger("uvicorn.error.connection")
    logger.setLevel(logging.ERROR)
    return partial(Connection, others={}, logger=logger)
