"""A WebSocket client that does exactly what a test says, and reads only when it is told to."""

import asyncio
import base64
import ctypes
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.server.harness import TOKEN, WAIT_SECONDS

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA
SMALL = 4_096
SO_ATTACH_FILTER, BPF_RETURN = 26, 0x06
"""A socket's own packet filter (socket(7)); a program that returns 0 keeps nothing."""


class Message(NamedTuple):
    """One frame; a server sends no fragments."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of a close."""
        assert self.opcode == CLOSE
        return int.from_bytes(self.payload[:2])


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A client's frame; its mask of zeros changes nothing."""
    first = (0x80 if fin else 0) | opcode
    if len(payload) < 126:
        head = struct.pack("!BB", first, 0x80 | len(payload))
    elif len(payload) < 65_536:
        head = struct.pack("!BBH", first, 0x80 | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, len(payload))
    return head + bytes(4) + payload


def fragments(count: int, payload: bytes = b"x") -> bytes:
    """The beginning of a text message that never ends."""
    return frame(TEXT, payload, fin=False) + frame(CONTINUATION, payload, fin=False) * (count - 1)


def handshake(host: str, token: str) -> bytes:
    """What opens a socket of `podium.v1`."""
    lines = [
        "GET /api/ws HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Protocol: podium.v1",
        f"Authorization: Bearer {token}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def subscribing(run_id: str) -> bytes:
    """The message that asks for all of a run."""
    message = {"type": "subscribe", "id": "s", "run_id": run_id}
    return frame(TEXT, json.dumps(message).encode())


class RawPeer:
    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read(self) -> Message:
        """The next frame. Raises ConnectionError when the connection ends instead."""
        head = await self._take(2)
        size = head[1] & 0x7F
        if size == 126:
            size = int.from_bytes(await self._take(2))
        elif size == 127:
            size = int.from_bytes(await self._take(8))
        return Message(head[0] & 0xF, await self._take(size))

    async def until(self, opcode: int) -> Message:
        while True:
            message = await self.read()
            if message.opcode == opcode:
                return message

    async def ended(self) -> None:
        """Read, and throw away, until the server has ended its side; then end ours."""
        try:
            while True:
                await self.read()
        except ConnectionError:
            self.socket.close()

    def deafen(self) -> None:
        """Drop every packet that comes from now on, as a cable that is pulled does: the server gets
        no answer, not even the kernel's. Where a user may not have that, the kernel still answers
        and nobody else does."""
        code = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RETURN, 0, 0, 0))
        program = struct.pack("HL", 1, ctypes.addressof(code))
        with suppress(PermissionError):
            self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def reset(self) -> None:
        """Vanish without a word, as a process that is killed."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    async def _take(self, size: int) -> bytes:
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self._buffer) < size:
                got = await asyncio.get_running_loop().sock_recv(self.socket, 65_536)
                if not got:
                    raise ConnectionResetError("the server ended the connection")
                self._buffer += got
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


@asynccontextmanager
async def raw_peer(url: str, token: str = TOKEN) -> AsyncIterator[RawPeer]:
    """An accepted socket of `podium.v1` whose kernel keeps little of what it does not read."""
    place = urlsplit(url)
    assert place.hostname is not None
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    connected.setblocking(False)
    peer = RawPeer(connected)
    with connected:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connected, (place.hostname, place.port))
        await peer.send(handshake(place.netloc, token))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += await peer._take(1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        yield peer
