"""One connection of an agent to the relay: HTTP that cannot grow, wait or pile up without end."""

import logging
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from server.agents.relay.rules import REQUEST_LIMIT
from server.guarded_http import GuardedConnection

HEAD_BYTES = 64 * 1024
"""Of a request line and its headers; an agent sends some 700."""
MESSAGE_BYTES = 2 * REQUEST_LIMIT
"""Of what follows the headers. More than a body may have: who sends too much is told so first."""
HEAD_SECONDS = 20.0
"""From the connection, or from the first byte of a further request, to the end of its headers."""


class Connection(GuardedConnection):
    """Cuts the connection when a bound is passed."""

    def __init__(
        self, config: uvicorn.Config, state: ServerState, *, others: dict[GuardedConnection, None]
    ) -> None:
        """`others`: all connections that are open, the oldest first."""
        protocol: Any = config.http_protocol_class
        http = protocol(config=config, server_state=state, app_state={})
        # An agent that hangs up, or sends no HTTP, is nothing for a log; what is, `Desk` says.
        http.logger, http.access_log = _silent(), False
        super().__init__(http, others=others, head_seconds=HEAD_SECONDS)
        self._rest = 0
        """Bytes of what followed the last headers."""

    def data_received(self, data: bytes) -> None:
        before, idle = self._http.cycle, self.idle
        if idle:
            self._await_head()
        self._http.data_received(data)
        if self._http.cycle is not before:
            self._headers_came(too_early=not idle)
        elif idle and not self._body_is_coming:
            self._head += len(data)
        else:
            self._rest += len(data)
        if self._head > HEAD_BYTES or self._rest > MESSAGE_BYTES:
            self.cut()

    def _headers_came(self, *, too_early: bool) -> None:
        self._asked, self._head, self._rest = True, 0, 0
        self._stop_timer()
        if too_early:
            # The next request before the last one has its answer: no agent does that.
            self.cut()


def _silent() -> logging.Logger:
    logger = logging.Logger("relay", level=logging.CRITICAL + 1)
    logger.disabled = True
    return logger
