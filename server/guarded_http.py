"""One HTTP connection under guard: a protocol that stands before uvicorn's own.

uvicorn trusts that a proxy stands before it: it keeps headers of any size, waits for them and for
bodies for ever, and takes any number of connections. What is passed on, and how much of it, is for
a subclass to say; here is what all of them have: a clock, and a crowd that has an end.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

MOST = 512
"""Connections at once. Past it an idle one is cut, at first those that never asked anything: who is
honest asks at once, and connects again."""


class GuardedConnection(asyncio.Protocol):
    """Passes everything on to `http`; a subclass decides about the data."""

    def __init__(
        self, http: Any, *, others: dict["GuardedConnection", None], head_seconds: float
    ) -> None:
        """`http` is uvicorn's protocol, `others` all connections of this server, the oldest first.
        The headers have `head_seconds`."""
        self._http = http
        self._head_seconds = head_seconds
        self._others = others
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._asked = False
        """Whether there ever was a whole request."""
        self._head = 0
        """Bytes of headers that are not whole yet."""

    @property
    def idle(self) -> bool:
        """Nothing is asked, or all of it is answered."""
        return self._http.cycle is None or bool(self._http.cycle.response_complete)

    @property
    def _body_is_coming(self) -> bool:
        """An answer may be there before all of its request."""
        return self._http.cycle is not None and bool(self._http.cycle.more_body)

    def _late(self) -> None:
        """The time is over."""
        self.cut()

    def cut(self) -> None:
        self._forget()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._http.connection_made(transport)
        self._await_head()
        self._others[self] = None
        if len(self._others) > MOST:
            idle = [other for other in self._others if other.idle]
            min(idle, key=lambda it: it._asked, default=self).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._http.connection_lost(exc)

    def eof_received(self) -> bool | None:
        result: bool | None = self._http.eof_received()
        return result

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def _await_head(self) -> None:
        """The next headers have their time from now on, unless it runs already."""
        if self._timer is None:
            self._set_timer(self._head_seconds, self._late)

    def _set_timer(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` after so long, instead of what was to come before."""
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _stop_timer(self) -> None:
        """Nothing is awaited: there is no hurry."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        """It is none of the crowd any more."""
        self._others.pop(self, None)
        self._stop_timer()
