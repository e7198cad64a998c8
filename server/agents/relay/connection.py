"""One connection of an agent to the relay: HTTP that cannot grow, wait or pile up without end.

uvicorn trusts that a proxy stands before it: it keeps headers of any size, waits for them for ever
and takes any number of connections. Here the other end is an agent.
"""

import asyncio
import logging
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from server.agents.relay.rules import REQUEST_LIMIT

HEAD_BYTES = 64 * 1024
"""Of a request line and its headers; an agent sends some 700."""
MESSAGE_BYTES = 2 * REQUEST_LIMIT
"""Of what follows the headers. More than a body may have: who sends too much is told so first."""
HEAD_SECONDS = 20.0
"""From the connection, or from the first byte of a further request, to the end of its headers."""
MOST = 512
"""Connections at once. Past it an idle one is cut, at first those that never asked anything: an
honest agent asks at once, and connects again when it is cut between two requests."""


class Connection(asyncio.Protocol):
    """Stands before uvicorn's own protocol, and cuts the connection when a bound is passed."""

    def __init__(
        self, config: uvicorn.Config, state: ServerState, *, others: dict["Connection", None]
    ) -> None:
        """`others`: all connections that are open, the oldest first."""
        http: Any = config.http_protocol_class
        self._http = http(config=config, server_state=state, app_state={})
        # An agent that hangs up, or sends no HTTP, is nothing for a log; what is, `Desk` says.
        self._http.logger, self._http.access_log = _silent(), False
        self._others = others
        self._transport: asyncio.Transport | None = None
        self._head, self._rest = 0, 0
        """Bytes of the headers that are coming, and of what followed the last ones."""
        self._late: asyncio.TimerHandle | None = None
        self._asked = False

    @property
    def idle(self) -> bool:
        """Nothing is asked, or all of it is answered."""
        return self._http.cycle is None or bool(self._http.cycle.response_complete)

    def cut(self) -> None:
        self._others.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._http.connection_made(transport)
        self._be_quick()
        self._others[self] = None
        if len(self._others) > MOST:
            idle = [other for other in self._others if other.idle]
            min(idle, key=lambda it: it._asked, default=self).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.pop(self, None)
        self._be_patient()
        self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before, idle = self._http.cycle, self.idle
        if idle:
            self._be_quick()
        self._http.data_received(data)
        if self._http.cycle is not before:
            self._headers_came(too_early=not idle)
        elif idle and not self._body_is_coming():
            self._head += len(data)
        else:
            self._rest += len(data)
        if self._head > HEAD_BYTES or self._rest > MESSAGE_BYTES:
            self.cut()

    def eof_received(self) -> bool | None:
        result: bool | None = self._http.eof_received()
        return result

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def _headers_came(self, *, too_early: bool) -> None:
        self._asked, self._head, self._rest = True, 0, 0
        self._be_patient()
        if too_early:
            # The next request before the last one has its answer: no agent does that.
            self.cut()

    def _body_is_coming(self) -> bool:
        """An answer may be there before all of its request."""
        return self._http.cycle is not None and bool(self._http.cycle.more_body)

    def _be_quick(self) -> None:
        if self._late is None:
            self._late = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.cut)

    def _be_patient(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _silent() -> logging.Logger:
    logger = logging.Logger("relay", level=logging.CRITICAL + 1)
    logger.disabled = True
    return logger
