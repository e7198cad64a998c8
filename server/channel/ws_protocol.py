"""uvicorn's sans-I/O WebSocket protocol, with what ASGI has no event for.

It puts itself into the scope's `extensions`: ready-made frames are written without a message for
each (`write_frame`), a peer that takes nothing can be freed (`abort`), and what waits for it can
be seen (`buffered`). It bounds what a stranger can make the server hold: fragments of a message,
answers to pings, a connection that is closing.

Much that it leans on is not documented: uvicorn's minor version is pinned, `ws_check.py` tries all
of it at the start, and a server where it does not fit falls back to `websocket.send`.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from protocol.errors import CLOSE_RULES, CloseCode
from server.channel.waiting import Flag, Inbox

EXTENSION = "podium.frames"
MAX_FRAGMENTS = 64
"""Of one message, where the settings do not say otherwise."""
LINGER_SECONDS = 2.0
"""So long is read, and thrown away, after a refusal: a socket that is closed with bytes unread is
reset, and the peer may never see why."""
SHUTDOWN_SECONDS = 0.5
INVALID_TEXT = 1007
AT_ONCE = struct.pack("ii", 1, 0)
"""As SO_LINGER: closing waits for nothing, and resets the peer."""
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

_OPEN = State.OPEN
"""To look a member of an enum up takes as long as the rest of a write's checks."""
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class Gone(ConnectionError):
    """The connection is closing or closed: nothing can be written to it any more."""


class TooManyFragments(Exception):
    """Ends the parser of a connection."""


def too_many(fragments: int, most: int) -> bool:
    return fragments > most


class CountingServer(ServerProtocol):
    """Counts the fragments of a message while they are parsed: one that has too many fails the
    connection before they are kept, however many of them came in one packet."""

    fragments = 0
    max_fragments = MAX_FRAGMENTS

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode in _DATA:
            self.fragments += 1
            if too_many(self.fragments, self.max_fragments):
                self.fail(CloseCode.TOO_LARGE, CLOSE_RULES[CloseCode.TOO_LARGE].reason)
                self.parser_exc = TooManyFragments()
                return
            if frame.fin:
                self.fragments = 0
        super().recv_frame(frame)


class PaneConfig(uvicorn.Config):
    """uvicorn's own has no such setting."""

    max_fragments = MAX_FRAGMENTS


class PaneProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection. It is what `extensions` holds, too: no object more per pane."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A second parser of our own would be made for nothing: the class adds only a count.
        self.conn.__class__ = CountingServer
        if isinstance(self.config, PaneConfig):
            self.conn.max_fragments = self.config.max_fragments  # type: ignore[attr-defined]
        self.refused = False
        self.heard = False
        # Most panes are idle, and these are what they would mostly consist of.
        self.queue = Inbox()  # type: ignore[assignment] # as much of a Queue as is used
        self.writable = Flag(on=True)  # type: ignore[assignment] # likewise of an Event

    # --- for the application ----------------------------------------------------------------------

    def write_frame(self, data: bytes) -> bool:
        """Write whole WebSocket frames, one or several. False, and nothing written, while the peer
        has not taken what was written before: wait for `drained`. Raises Gone."""
        if self.conn.state is not _OPEN or self.transport.is_closing():
            raise Gone
        if not self.writable.is_set():
            return False
        self.transport.write(data)
        return True

    async def drained(self) -> None:
        """Wait until `write_frame` takes frames again, or the connection has gone."""
        await self.writable.wait()

    @property
    def buffered(self) -> int:
        """Bytes that the peer's socket has not taken yet."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """End the connection at once with a reset, without what waits for the peer: closing would
        wait for it to be taken, in the kernel too, which offers it for minutes."""
        peer = self.transport.get_extra_info("socket")
        if peer is not None:
            with suppress(OSError):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self.transport.abort()

    # --- uvicorn's protocol ----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.heard = True
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # Headers that websockets does not take. Its answer is made; uvicorn leaves it there.
            self.transport.write(b"".join(self.conn.data_to_send()) or BAD_REQUEST)
            self.transport.close()
            self.close_sent = True  # else a stop in this moment would answer once more, and fail

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):  # not after a refused handshake
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment] # typed as plain data

    def handle_ping(self) -> None:
        """Answer it; but a peer that reads nothing gets no pile of answers."""
        output = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(output)

    def send_receive_event_to_app(self) -> None:
        """Hand a whole message on. What is no UTF-8 is refused, without a traceback."""
        if self.refused or not self._readable():
            self.frames = []
            return
        super().send_receive_event_to_app()

    def _readable(self) -> bool:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.conn.fail(INVALID_TEXT, "the text is not UTF-8")
                self.handle_parser_exception()
                return False
        return True

    def handle_parser_exception(self) -> None:
        """Refuse the peer: say why, read no more, and free the connection soon."""
        if self.refused:
            return
        self.refused = True
        self.frames = []
        close = self.conn.close_sent
        code, reason = (close.code, close.reason) if close else (CloseCode.ABNORMAL, "")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.close_sent = True
        self.stop_keepalive()
        if close is None or not self.writable.is_set():
            # Refused before it was accepted, or it does not read: nothing can be said to it. Who is
            # about to accept it learns at once that it has gone.
            self.disconnected = True
            self.transport.abort()
            return
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._free_in(LINGER_SECONDS)

    def send_keepalive_ping(self) -> None:
        self.heard = False
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """Close a peer from which nothing came since it was asked. One that sends much has its
        answer somewhere behind that, and what came while the server was busy is read first."""
        if self.heard:
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        if self.buffered:
            self.transport.abort()

    def shutdown(self) -> None:
        """The server ends: it does not wait for what the peer has not taken by now."""
        if self.conn.state is State.CLOSING:
            # The peer closes, or was refused: uvicorn would fail to close it once more.
            self.close_sent = True
        super().shutdown()
        if self.buffered:
            self._free_in(SHUTDOWN_SECONDS)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            # The scope has all of it. The parser, which waits for frames, holds the request too.
            self.request.headers.clear()
            self.request = self.response = None  # type: ignore[assignment]
        elif message["type"] == "websocket.close" and self.close_timer is not None:
            self._free_in(self.close_timeout)
        elif message["type"] == "websocket.http.response.body" and self.close_sent:
            # A refusal completes a handshake, too; else each stranger is an error in the log.
            self.handshake_complete = True

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The application has let go: what the peer never takes must not hold the socket."""
        super().on_task_complete(task)
        if self.close_timer is None and not self.disconnected:
            self._free_in(self.close_timeout)

    def _free_in(self, seconds: float) -> None:
        if self.close_timer is not None:
            self.close_timer.cancel()
        # What a refused peer was told may still be on its way: a reset would overtake it.
        free = self.transport.abort if self.refused else self.abort
        self.close_timer = self.loop.call_later(seconds, free)
