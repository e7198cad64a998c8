"""What is ready for one socket: collected, and written at once.

The server's WebSocket protocol takes frames that are framed already (ws_protocol.py). Where it is
not there, each frame is a message of its own to `websocket.send`: the same frames in the same
order, for about twice the work, and a stalled socket is not freed.
"""

import asyncio
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from protocol.codec import encode_frame
from protocol.frames import ControlFrame, FlowRunLagging
from server.channel.framing import framed
from server.channel.traffic import Traffic
from server.channel.ws_protocol import EXTENSION, Gone, PaneProtocol
from server.ports import Batch

FULL_BYTES = 64 * 1024
"""So much is written without waiting for more."""
LOOKS = 10
"""How often a stalled socket is looked at before it is given up."""


class Stalled(Exception):
    """The peer has taken nothing for so long that it is given up."""


class Outbox(Protocol):
    """Frames on their way to one socket; they leave in the order in which they came."""

    @property
    def full(self) -> bool:
        """Whether enough is there for a write."""
        ...

    def control(self, frame: ControlFrame) -> None: ...

    def batch(self, batch: Batch) -> None: ...

    async def flush(self) -> None:
        """Give everything to the transport, waiting for a peer that is slow.

        Raises Stalled when the peer takes nothing for the time that it has, and
        WebSocketDisconnect when it has gone.
        """
        ...

    def abort(self) -> None:
        """Free the socket at once, where that can be done."""
        ...


class SocketOutbox(Outbox, Protocol):
    """The outbox of a socket, which may be free to take something at once."""

    def express(self, batch: Batch) -> bool:
        """Write a batch at once, when nothing waits and the peer has taken all; False, and nothing
        done, otherwise."""
        ...


def outbox_of(websocket: WebSocket, stall_seconds: float, traffic: Traffic) -> SocketOutbox:
    """The outbox that the server under this socket allows; what leaves is counted in `traffic`."""
    wire = websocket.scope.get("extensions", {}).get(EXTENSION)
    if isinstance(wire, PaneProtocol):
        return FramedOutbox(wire, stall_seconds, traffic)
    return MessageOutbox(websocket, stall_seconds, traffic)


class FramedOutbox:
    """Bytes that are framed already: one write for everything that is ready."""

    def __init__(
        self, wire: PaneProtocol, stall_seconds: float, traffic: Traffic | None = None
    ) -> None:
        self._wire = wire
        self._traffic = traffic or Traffic()
        self._look_seconds = stall_seconds / LOOKS
        self._pieces: list[bytes] = []
        self._size = 0

    @property
    def full(self) -> bool:
        return self._size >= FULL_BYTES

    def control(self, frame: ControlFrame) -> None:
        self._add(framed(encode_frame(frame)))
        self._traffic.frames += 1
        self._traffic.lagging += isinstance(frame, FlowRunLagging)

    def batch(self, batch: Batch) -> None:
        if batch.wire:
            self._add(batch.wire)
            self._traffic.frames += len(batch.payloads)

    def _add(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)

    async def flush(self) -> None:
        if not self._pieces:
            return
        # What one run alone has to say is the hub's own bytes, shared by every reader.
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        try:
            while not self._wire.write_frame(data):
                await self._drain()
            self._traffic.bytes += len(data)
        except Gone as error:
            raise WebSocketDisconnect(1006) from error

    def express(self, batch: Batch) -> bool:
        if self._pieces:
            return False
        if not batch.wire:
            return True
        try:
            if not self._wire.write_frame(batch.wire):
                return False
        except Gone:
            return False  # the writer finds out, and says so
        self._traffic.frames += len(batch.payloads)
        self._traffic.bytes += len(batch.wire)
        return True

    async def _drain(self) -> None:
        """Wait until the peer has made room. Slow is not stalled: any byte starts the time anew."""
        left, idle = self._wire.buffered, 0
        while idle < LOOKS:
            try:
                async with asyncio.timeout(self._look_seconds):
                    await self._wire.drained()
                    return
            except TimeoutError:
                buffered = self._wire.buffered
                idle = 0 if buffered < left else idle + 1
                left = buffered
        raise Stalled

    def abort(self) -> None:
        self._wire.abort()


class MessageOutbox:
    """One `websocket.send` for each frame, under any ASGI server."""

    def __init__(self, websocket: WebSocket, stall_seconds: float, traffic: Traffic) -> None:
        self._websocket = websocket
        self._traffic = traffic
        self._stall_seconds = stall_seconds
        self._payloads: list[bytes] = []
        self._size = 0

    @property
    def full(self) -> bool:
        return self._size >= FULL_BYTES

    def control(self, frame: ControlFrame) -> None:
        self._add(encode_frame(frame))
        self._traffic.lagging += isinstance(frame, FlowRunLagging)

    def batch(self, batch: Batch) -> None:
        for payload in batch.payloads:
            self._add(payload)

    def _add(self, payload: bytes) -> None:
        self._payloads.append(payload)
        self._size += len(payload)

    async def flush(self) -> None:
        payloads, self._payloads, self._size = self._payloads, [], 0
        for payload in payloads:
            try:
                async with asyncio.timeout(self._stall_seconds):
                    await self._websocket.send_text(payload.decode())
                self._traffic.frames += 1
                self._traffic.bytes += len(payload)
            except TimeoutError:
                raise Stalled from None

    def express(self, batch: Batch) -> bool:
        """ASGI only takes a message from a task."""
        return False

    def abort(self) -> None:
        """ASGI has no such event."""
