"""What a delivery costs the server: ready frames in one write, and joined per tick, against
`websocket.send` per subscriber, in the same process and the same pass.

The client is a process of its own that only reads and counts (`python -m benchmarks.readers`).
Every way begins where a tick's frames are committed, and the message is encoded once in each: what
is compared is the way to the socket. CPU time is that of this process, kernel included.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from protocol.ids import RunId, Seq
from server.channel.framing import batch_of
from server.channel.hub import MemoryHub
from server.channel.outbox import FramedOutbox, MessageOutbox, Outbox
from server.channel.ws_protocol import EXTENSION
from server.ports import LogEntry
from server.serve import configured, listen
from server.settings import Settings

RUN = RunId("bench")
PAYLOAD = b'{"type":"flow_run_step_delta","text":"' + b"x" * 260 + b'"}'
"""About as long as a delta."""
TICK = 10
"""Frames of one flush tick."""
DELIVERIES = 20_000
"""Of one pass of one way."""
PASSES = 5
GAP = 0.001
"""Seconds between two ticks, so that the readers keep up and no buffer fills."""

Way = Callable[[Sequence[LogEntry]], Awaitable[None]]


class Panes:
    """The open sockets, each with what podium would write through."""

    def __init__(self) -> None:
        self.sockets: list[WebSocket] = []
        self.framed: list[Outbox] = []
        self.messages: list[Outbox] = []
        self.changed = asyncio.Event()

    async def endpoint(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.sockets.append(websocket)
        self.framed.append(FramedOutbox(websocket.scope["extensions"][EXTENSION], 60))
        self.messages.append(MessageOutbox(websocket, 60))
        self.changed.set()
        try:
            await websocket.receive()
        except WebSocketDisconnect:
            return


class Ways:
    """The ways a tick can take to every pane."""

    def __init__(self, panes: Panes) -> None:
        self._panes = panes
        self._hub = MemoryHub()

    async def sent(self, tick: Sequence[LogEntry]) -> None:
        """Starlette's own: a message for each frame and subscriber, without a queue or a task."""
        for entry in tick:
            text = entry.data.decode()
            for websocket in self._panes.sockets:
                await websocket.send_text(text)

    async def single(self, tick: Sequence[LogEntry]) -> None:
        """Framed once, a write for each frame and pane: what the kernel costs."""
        for entry in tick:
            batch = batch_of(Seq(entry.seq - 1), [entry], outline=False, cut=False)
            for outbox in self._panes.framed:
                outbox.batch(batch)
                await outbox.flush()

    async def joined(self, tick: Sequence[LogEntry]) -> None:
        """As the channel does it: through the ring, one write for each pane."""
        self._hub.publish(tick)
        for outbox in self._panes.framed:
            batch = self._hub.after(RUN, Seq(tick[0].seq - 1), outline=False)
            assert batch is not None
            outbox.batch(batch)
            await outbox.flush()


class Costs(NamedTuple):
    """Of each pass: what a delivery cost by the way, as a share of `websocket.send` beside it."""

    panes: int
    microseconds: float
    """Of `websocket.send`, the median."""
    single: list[float]
    joined: list[float]


async def fan_out(panes: int) -> Costs:
    """Interleaved: every pass goes all the ways, so that all meet the same machine."""
    async with opened(panes) as (open_panes, counted):
        ways = Ways(open_panes)
        took: dict[str, list[float]] = {"sent": [], "single": [], "joined": []}
        order: list[tuple[str, Way]] = [
            ("sent", ways.sent), ("single", ways.single), ("joined", ways.joined),
        ]  # fmt: skip
        seq = 0
        for number in range(PASSES + 1):
            for name, way in order[number % 3 :] + order[: number % 3]:
                spent, seq = await one_pass(way, panes, seq)
                await counted(seq * panes)
                if number > 0:  # the first one warms
                    took[name].append(spent)
    shares = {
        name: [ours / theirs for ours, theirs in zip(took[name], took["sent"], strict=True)]
        for name in ("single", "joined")
    }
    return Costs(panes, statistics.median(took["sent"]) * 1e6, **shares)


async def one_pass(way: Way, panes: int, seq: int) -> tuple[float, int]:
    """CPU seconds of one delivery, and the last seq."""
    ticks = max(10, DELIVERIES // panes // TICK)
    spent = 0.0
    for _ in range(ticks):
        tick = [LogEntry(RUN, Seq(seq + place), PAYLOAD, False) for place in range(1, TICK + 1)]
        seq += TICK
        began = time.process_time()
        await way(tick)
        spent += time.process_time() - began
        await asyncio.sleep(GAP)
    return spent / (ticks * TICK * panes), seq


@asynccontextmanager
async def opened(
    panes: int,
) -> AsyncIterator[tuple[Panes, Callable[[int], Awaitable[None]]]]:
    """A server with so many readers; the second of the pair waits until they have read so many
    messages in all, and fails when it is another number in the end."""
    open_panes = Panes()
    app = Starlette(routes=[WebSocketRoute("/", open_panes.endpoint)])
    with listen(Settings(port=0)) as listener:
        server = uvicorn.Server(await configured(app))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        readers = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.readers",
            str(listener.getsockname()[1]), str(panes), str(len(PAYLOAD)),
            stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE, env=os.environ,
        )  # fmt: skip
        assert readers.stdin is not None
        assert readers.stdout is not None
        given, told = readers.stdin, readers.stdout

        async def counted(messages: int) -> None:
            given.write(b"%d\n" % messages)
            assert int(await told.readline()) == messages

        try:
            while len(open_panes.sockets) < panes:
                await open_panes.changed.wait()
                open_panes.changed.clear()
            yield open_panes, counted
        finally:
            given.close()
            await readers.wait()
            server.should_exit = True
            await serving
