"""Answers of unknown length, sent at the pace of their reader, of which one page waits at most.

A reader that stops reading is never freed by closing: a close waits for the same full buffer. Only
`transport.abort()` frees it, which ASGI does not have; uvicorn's request cycle has the transport.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from server.channel.outbox import Stalled
from server.logs import logger
from server.ports import StoreUnavailable

log = logger(__name__)

CUT_SECONDS = 1.0
"""So long the server may take to notice that we have cut a connection."""


class CutShort(Exception):
    """The body cannot be finished: it is cut, so that nobody takes what came for the whole."""


class Outlet:
    """The way to one reader. One that takes no byte for `stall_seconds` is given up."""

    def __init__(self, receive: Receive, send: Send, *, stall_seconds: float) -> None:
        self._receive = receive
        self._send = send
        self._stall_seconds = stall_seconds
        self._transport = transport_of(receive)

    async def write(self, data: bytes) -> None:
        """Send a part of the body; returns when the reader may get more. Raises Stalled."""
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def send(self, message: Message) -> None:
        sending = asyncio.ensure_future(self._send(message))
        try:
            await self._progress(sending)
            await sending
        finally:
            sending.cancel()

    async def left(self) -> None:
        """Return when the reader has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def abort(self) -> None:
        """Drop the connection now, with what waits for the reader."""
        if self._transport is not None:
            self._transport.abort()

    async def cut(self) -> None:
        """Drop the connection, and return when the server knows it; it would complain otherwise of
        an answer without an end."""
        self.abort()
        async with asyncio.timeout(CUT_SECONDS):
            await self.left()

    async def _progress(self, sending: "asyncio.Future[None]") -> None:
        """Wait until it is sent, for as long as the reader takes anything at all."""
        waiting = self.waiting
        while not (await asyncio.wait({sending}, timeout=self._stall_seconds))[0]:
            before, waiting = waiting, self.waiting
            if waiting >= before:
                raise Stalled

    @property
    def waiting(self) -> int:
        """Bytes that the kernel has not taken; 0 too where the connection is not known."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()


Produce = Callable[[Outlet], Awaitable[None]]


class Streamed:
    """An ASGI response: `produce` writes its body. `release` is called once, whatever happens.

    The connection is cut, never closed in order, when the reader stalls, when `produce` raises
    CutShort and when the store fails: chunked encoding then shows that the end is missing.
    """

    def __init__(
        self,
        produce: Produce,
        *,
        headers: Mapping[str, str],
        stall_seconds: float,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._produce = produce
        self._headers = Headers(headers).raw
        self._stall_seconds = stall_seconds
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outlet = Outlet(receive, send, stall_seconds=self._stall_seconds)
        try:
            await self._serve(outlet, scope)
        except asyncio.CancelledError:
            outlet.abort()
            raise
        finally:
            self._release()

    async def _serve(self, outlet: Outlet, scope: Scope) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                leaving = group.create_task(outlet.left())
                writing = group.create_task(self._write(outlet, head=scope["method"] == "HEAD"))
                await asyncio.wait({leaving, writing}, return_when=asyncio.FIRST_COMPLETED)
                leaving.cancel()
                writing.cancel()
        except* (Stalled, CutShort, StoreUnavailable) as errors:
            reason = type(errors.exceptions[0]).__name__
            log.info("stream_cut", path=scope["path"], reason=reason)
            await outlet.cut()

    async def _write(self, outlet: Outlet, *, head: bool) -> None:
        await outlet.send({"type": "http.response.start", "status": 200, "headers": self._headers})
        if not head:
            await self._produce(outlet)
        await outlet.send({"type": "http.response.body", "body": b"", "more_body": False})


def transport_of(receive: Receive) -> asyncio.Transport | None:
    """The connection under a request; None under a server that does not show it, where a stalled
    reader stays until the operating system gives it up."""
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    return transport if hasattr(transport, "abort") else None
