"""Viewers that cost little and believe nothing: each keeps a cursor, counts what is wrong with the
frames that it gets, and comes back when its connection ends.

They parse WebSocket frames and find the `seq` by its place, because fifty of them share one core
with the test. What they say of a log is its head and the checksum of all frames up to it.
"""

import asyncio
import json
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from tests.server.harness import TOKEN
from tests.server.raw_peer import CLOSE, PONG, TEXT, frame, handshake

END = b'{"type":"flow_run_finished"'
PASSING = (b'{"type":"flow_run_step_delta"', b'{"type":"flow_run_step_tool"')
AGAIN_SECONDS = 0.05


class Place:
    """Where the server is; None while there is none."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._moved = asyncio.Condition()

    async def move(self, url: str | None) -> None:
        async with self._moved:
            self._url = url
            self._moved.notify_all()

    async def url(self) -> str:
        async with self._moved:
            await self._moved.wait_for(lambda: self._url is not None)
            return str(self._url)


class Viewer:
    """Follows one run to its end, over as many connections as it takes."""

    def __init__(
        self, place: Place, run_id: str, *, after: int = 0, remembers: bool = False
    ) -> None:
        """One that `remembers` can be truncated: it keeps the checksum of each frame's log."""
        self._place = place
        self._run_id = run_id
        self._sums: list[int] | None = [] if remembers else None
        self._line: Line | None = None
        self._stayed = 0
        self.gen = 1
        self.last = after
        self.sum = 0
        self.state = 0
        """The last frame that tells of a state, which not even a power cut takes back."""
        self.said = 0
        """The last one of what agents say and do."""
        self.wrong: list[str] = []
        """What was lost, doubled or out of order."""
        self.connects = 0
        self.draining: list[int] = []
        """How long the server asked it to stay away, each time that it stopped."""
        self.codes: list[int] = []
        """Of the closes that it was told."""
        self.truncated: list[int] = []
        """Where the server made it go back to."""
        self.live = asyncio.Event()
        """Set when it has caught up on its present connection."""
        self.finished = asyncio.Event()

    async def follow(self) -> None:
        while not self.finished.is_set():
            await self._stay_away()
            url = urlsplit(await self._place.url())
            assert url.hostname is not None
            loop = asyncio.get_running_loop()
            try:
                _, line = await loop.create_connection(
                    lambda url=url: Line(self, url.netloc),  # type: ignore[misc]
                    url.hostname,
                    url.port or 0,
                )
            except OSError:
                # The server has gone, and the place is about to say so.
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            self.connects += 1
            self._line = line
            await line.ended.wait()
            self.live.clear()

    async def _stay_away(self) -> None:
        """As long as a server that stopped has asked for, which is not the same for everyone."""
        if len(self.draining) > self._stayed:
            self._stayed = len(self.draining)
            await asyncio.sleep(self.draining[-1] / 1000)

    def abort(self) -> bool:
        """Vanish as a process that is killed does: with a reset. False when there is no connection
        to reset."""
        return self._line is not None and self._line.reset()

    @property
    def hello(self) -> bytes:
        message: dict[str, Any] = {
            "type": "subscribe", "id": "s", "run_id": self._run_id,
            "after": {"gen": self.gen, "seq": self.last},
        }  # fmt: skip
        return frame(TEXT, json.dumps(message).encode())

    def take(self, payload: bytes) -> None:
        """One text message. A stored frame has its `seq` and then its `at` at the beginning."""
        place = payload.find(b'"seq":', 0, 160)
        stop = payload.find(b',"at":"', place, place + 40) if place > 0 else -1
        if stop < 0:
            self._control(json.loads(payload))
            return
        seq = int(payload[place + 6 : stop])
        if seq != self.last + 1:
            self.wrong.append(f"{seq} after {self.last}")
        self.last = seq
        self.sum = zlib.crc32(payload, self.sum)
        if self._sums is not None:
            self._sums.append(self.sum)
            if payload.startswith(PASSING):
                self.said = seq
            else:
                self.state = seq
        if payload.startswith(END):
            self.finished.set()

    def _control(self, told: dict[str, Any]) -> None:
        match told["type"]:
            case "flow_run_subscribed":
                self.gen = told["gen"]
                if told["from"] != self.last:
                    self._truncate(told["from"])
            case "flow_run_caught_up":
                self.live.set()
            case "flow_run_draining":
                self.draining.append(told["retry_after_ms"])
            case "flow_run_error" | "flow_run_reset":
                self.wrong.append(json.dumps(told))

    def _truncate(self, last: int) -> None:
        self.truncated.append(last)
        self.last = last
        if self._sums is None or last > len(self._sums):
            self.wrong.append(f"the server went back to {last}")
            return
        del self._sums[last:]
        self.sum = self._sums[-1] if self._sums else 0


class Line(asyncio.Protocol):
    """One connection of a viewer."""

    def __init__(self, viewer: Viewer, host: str) -> None:
        self._viewer = viewer
        self._host = host
        self._rest = b""
        self._open = False
        self._transport: asyncio.Transport | None = None
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(handshake(self._host, TOKEN))

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()

    def reset(self) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        connected = self._transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        return True

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at = 0 if self._open else self._accepted(data)
        self._rest = data[self._frames(data, at) :] if self._open else data

    def _accepted(self, data: bytes) -> int:
        """Where the frames begin. A server that stops refuses: the viewer comes back."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return 0
        assert self._transport is not None
        if not data.startswith(b"HTTP/1.1 101 "):
            assert data.startswith(b"HTTP/1.1 503 "), data[:200]
            self._transport.close()
            return 0
        self._open = True
        self._transport.write(self._viewer.hello)
        return end + 4

    def _frames(self, data: bytes, at: int) -> int:
        """Take the whole frames; returns where the first one begins that is not."""
        end = len(data)
        while end - at >= 4 or (end - at >= 2 and data[at + 1] < 126):
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = (data[at + 2] << 8) + data[at + 3], at + 4
            elif size == 127:
                if end - at < 10:
                    break
                size, start = int.from_bytes(data[at + 2 : at + 10]), at + 10
            if start + size > end:
                break
            if data[at] == 0x80 | TEXT:
                self._viewer.take(data[start : start + size])
            else:
                self._other(data[at], data[start : start + size])
            at = start + size
        return at

    def _other(self, head: int, payload: bytes) -> None:
        assert self._transport is not None
        match head:
            case 0x89:
                self._transport.write(frame(PONG, payload))
            case 0x88:
                self._viewer.codes.append(int.from_bytes(payload[:2]))
                self._transport.write(frame(CLOSE, payload[:2]))
            case _:
                self._viewer.wrong.append(f"a frame that begins with {head:#x}")


@asynccontextmanager
async def viewing(
    place: Place, run_id: str, count: int, *, after: int = 0, remembers: bool = False
) -> AsyncIterator[list[Viewer]]:
    """So many viewers of a run from a frame on, each in a task of its own."""
    viewers = [Viewer(place, run_id, after=after, remembers=remembers) for _ in range(count)]
    tasks = [asyncio.create_task(viewer.follow()) for viewer in viewers]
    try:
        yield viewers
    finally:
        for task in tasks:
            task.cancel()
        for viewer in viewers:
            viewer.abort()
        await asyncio.wait(tasks)
        for task in tasks:
            with suppress(asyncio.CancelledError):
                task.result()


async def all_live(crowd: Sequence[Viewer], *, seconds: float = 60) -> None:
    """Wait until each has what was there when it came."""
    async with asyncio.timeout(seconds):
        for viewer in crowd:
            await viewer.live.wait()


async def all_finished(crowd: Sequence[Viewer], *, seconds: float = 60) -> None:
    """Wait until each has seen the end of its run."""
    async with asyncio.timeout(seconds):
        for viewer in crowd:
            await viewer.finished.wait()


async def until(true: Callable[[], bool], *, seconds: float, every: float = 0.02) -> None:
    """Wait for what no event tells of; raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(every)
