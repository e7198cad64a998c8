"""Tries our WebSocket protocol on the uvicorn that is installed, without a network.

Everything that ws_protocol.py leans on and that is not documented is used once, in a few
milliseconds, before the first client could meet it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from server.channel.framing import framed
from server.channel.ws_protocol import EXTENSION, MAX_FRAGMENTS, Gone, PaneProtocol

CHECK_SECONDS = 5.0
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
PAYLOADS = (b"{}", b"x" * 126, b"x" * 65_536)
"""One for each length of a header."""


async def misfit() -> str | None:
    """What is not as ws_protocol.py expects, or None when all is."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await _ready_frames()
            await _slow_peer()
            await _fragments()
            await _invalid_text()
    except _Unfit as error:
        return str(error)
    except Exception as error:  # whatever breaks here would break under a client
        return f"{type(error).__name__}: {error}"
    return None


async def _ready_frames() -> None:
    async with _connection() as (protocol, peer):
        for payload in PAYLOADS:
            peer.written.clear()
            await protocol.send({"type": "websocket.send", "text": payload.decode()})
            sent = bytes(peer.written)
            peer.written.clear()
            taken = protocol.write_frame(framed(payload))
            _expect(taken and bytes(peer.written) == sent, "a ready frame differs from a sent one")
        _ping(protocol, peer, answered=True)
        await protocol.send({"type": "websocket.close", "code": 1000})
        _expect(protocol.close_timer is not None, "a close is not bounded in time")
        try:
            protocol.write_frame(framed(b"{}"))
        except Gone:
            return
        raise _Unfit("a closing connection takes frames")


async def _slow_peer() -> None:
    async with _connection() as (protocol, peer):
        protocol.pause_writing()
        peer.written.clear()
        _expect(not protocol.write_frame(framed(b"{}")), "a full socket takes frames")
        _ping(protocol, peer, answered=False)
        _expect(not peer.written, "a full socket is written to")
        peer.waiting = 7
        _expect(protocol.buffered == 7, "what waits for the peer is not told")
        waiting = asyncio.ensure_future(protocol.drained())
        await asyncio.sleep(0)
        _expect(not waiting.done(), "a full socket counts as drained")
        protocol.resume_writing()
        await waiting
        _expect(protocol.write_frame(framed(b"{}")), "a drained socket takes no frames")
        protocol.abort()
        _expect(peer.aborted, "an abort does not reach the transport")


async def _fragments() -> None:
    async with _connection() as (protocol, peer):
        peer.written.clear()
        whole = [_masked(0x01, b"")] + [_masked(0x00, b"")] * (MAX_FRAGMENTS - 2)
        protocol.data_received(b"".join([*whole, _masked(0x80, b"")]))
        _expect(not peer.written, "a message in many fragments is refused")
        protocol.data_received(b"".join([*whole, _masked(0x00, b""), _masked(0x80, b"")]))
        _refused(protocol, peer, 4413)


async def _invalid_text() -> None:
    async with _connection() as (protocol, peer):
        peer.written.clear()
        protocol.data_received(_masked(0x81, b"\xff"))
        _refused(protocol, peer, 1007)


def _refused(protocol: PaneProtocol, peer: "SilentPeer", code: int) -> None:
    said = bytes(peer.written)
    _expect(said[:1] == b"\x88" and said[2:4] == code.to_bytes(2), f"no refusal with {code}")
    _expect(not protocol.frames, "refused fragments are kept")
    _expect(protocol.close_timer is not None and not peer.closed, "a refusal does not linger")


def _ping(protocol: PaneProtocol, peer: "SilentPeer", *, answered: bool) -> None:
    peer.written.clear()
    protocol.data_received(_masked(0x89, b"ping"))
    _expect((bytes(peer.written) == b"\x8a\x04ping") is answered, "pings are answered otherwise")


def _masked(first: int, payload: bytes) -> bytes:
    """A client's frame; the mask of zeros changes nothing."""
    return bytes((first, 0x80 | len(payload))) + bytes(4) + payload


class _Unfit(Exception):
    """Says what is not as expected."""


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Unfit(otherwise)


class SilentPeer(asyncio.Transport):
    """The transport of a peer that is not there; it keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.waiting = 0
        self.closed = False
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@asynccontextmanager
async def _connection() -> AsyncIterator[tuple[PaneProtocol, SilentPeer]]:
    """An accepted connection, and its end without a trace."""
    accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        accepted.set_result(scope["extensions"].get(EXTENSION) is protocol)
        message: Message = {"type": ""}
        while message["type"] != "websocket.disconnect":
            message = await receive()

    config = uvicorn.Config(app, log_config=None, lifespan="off", ws_per_message_deflate=False)
    config.load()
    protocol, peer = PaneProtocol(config, ServerState(), {}), SilentPeer()
    protocol.connection_made(peer)
    try:
        protocol.data_received(HANDSHAKE)
        _expect(await accepted, "the scope has no extension")
        _expect(peer.written.startswith(b"HTTP/1.1 101 "), "the handshake is not answered")
        yield protocol, peer
    finally:
        tasks = list(protocol.tasks)
        protocol.connection_lost(None)
        for task in tasks:
            await task
