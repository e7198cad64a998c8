"""How fast one socket gets a long run out of the log, and what that costs the server's memory and
the other sockets.

The server is a process of its own (`python -m benchmarks.replay DIR`). This process reads as fast
as it can, and meanwhile asks on a second socket how long an answer takes.
"""

import asyncio
import base64
import os
import re
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import uvicorn

from benchmarks.options import Options
from benchmarks.rows import Bound, Row, bounded
from flows import engine
from protocol.commands import Band
from protocol.frames import FlowRunStepTool, ToolStatus
from protocol.ids import RunId
from protocol.resources import Run
from protocol.states import RunStatus
from server import app
from server.channel.hub import MemoryHub
from server.ports import (
    AgentOrder,
    AgentResult,
    AgentUnavailable,
    AttemptRef,
    Emit,
    ModelEndpoint,
    NewRun,
    Probe,
)
from server.serve import configured, listen
from server.settings import Settings
from server.stores.sqlite import SqliteStore
from server.users.directory import LOCAL_USER
from server.world import SystemClock
from tests.flows.plans import PROJECT, review_shape

TOKEN = "a-token-of-the-benchmark"
RUN = RunId("0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a01")
FRAMES = 100_000
STORED = re.compile(rb'"seq":(\d+),"at":')
CAUGHT_UP = b'"type":"flow_run_caught_up"'


class Replayed(NamedTuple):
    """Of each pass."""

    rates: list[float]
    """Frames a second, from the subscription to `flow_run_caught_up`."""
    cpu: list[float]
    """Seconds of the server for one frame."""
    growth_mb: float
    answers: list[float]
    """Seconds that a ping took on another socket meanwhile."""


def replay_rows(options: Options) -> list[Row]:
    return [row for folded in (False, True) for row in rows_of(options, folded=folded)]


def rows_of(options: Options, *, folded: bool) -> list[Row]:
    frames = options.size(FRAMES, 2_000)
    found = asyncio.run(replayed(frames, options.passes, folded=folded))
    cost = statistics.median(found.cpu) * 1e6
    name = f"replay of {frames:,} frames{' that are folded' if folded else ''}"
    return [
        bounded(
            name, [it / 1000 for it in found.rates], Bound(200, 100, "k/s", least=True),
            more=f", {cost:.1f} µs CPU a frame",
        ),
        bounded(f"{name}: RSS beyond idle", [found.growth_mb], Bound(8, 16, "MB")),
        bounded(
            f"{name}: a ping of another socket meanwhile, the slowest",
            [max(found.answers) * 1000], Bound(100, 200, "ms"),
        ),
    ]  # fmt: skip


async def replayed(frames: int, passes: int, *, folded: bool) -> Replayed:
    with tempfile.TemporaryDirectory() as folder:
        await written(Path(folder), frames, folded=folded)
        async with serving(Path(folder)) as (pid, port):
            await asyncio.to_thread(pings, port, 5)  # warms
            before = resident_mb(pid)
            rates, cpu, answers, most = [], [], [], before
            for _ in range(passes):
                spent = cpu_seconds(pid)
                reading = asyncio.ensure_future(asyncio.to_thread(one_pass, port))
                while not reading.done():
                    answers += await asyncio.to_thread(pings, port, 5)
                rates.append(await reading)
                cpu.append((cpu_seconds(pid) - spent) / frames)
                most = max(most, peak_mb(pid))
    return Replayed(rates, cpu, most - before, answers)


async def written(folder: Path, frames: int, *, folded: bool) -> None:
    """A store with one ended run of so many frames, about as long as a delta each."""
    async with SqliteStore(
        folder, clock=SystemClock(), committed=MemoryHub().publish, boot_id="b", tick=0
    ) as store:
        await store.launch(run_to_be())
        await store.change_run(RUN, RunStatus.RUNNING, [])
        step = review_shape().steps[0].id
        ref = await store.start_attempt(
            AttemptRef(RUN, step, 0), task_id="t", session_id=None, frames=[]
        )
        log = await store.log(RUN)
        assert log is not None
        for first in range(log.head, frames, 1_000):
            numbers = range(first, min(first + 1_000, frames))
            await store.append(ref, [call(ref, number) for number in numbers])
        await store.finish_run(
            RUN, RunStatus.FAILED, report=None, report_json=None, error=None, frames=[]
        )
        if folded:
            assert await store.fold()


def run_to_be() -> NewRun:
    plan = review_shape()
    at = "2026-01-01T00:00:00.000Z"
    run = Run(
        id=RUN, project_id=PROJECT, flow_name="code-review", band=Band.SMALL, model=None,
        status=RunStatus.QUEUED, input={"question": "q"}, report=None, error=None,
        created_at=at, updated_at=at,
    )  # fmt: skip
    return NewRun(
        run=run, user_id=LOCAL_USER, key=None, body_hash="h", command="/code-review", plan=plan,
        patches={}, facts=engine.initial(plan),
    )  # fmt: skip


def call(ref: AttemptRef, number: int) -> FlowRunStepTool:
    return FlowRunStepTool(
        run_id=ref.run_id, step_id=ref.step_id, attempt=ref.attempt, call_id=str(number),
        name="glob", status=ToolStatus.OK, summary="a call", result=f"{number} words of it " * 4,
    )  # fmt: skip


# --- the server -----------------------------------------------------------------------------------


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[int, int]]:
    """Its pid and port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.replay", str(folder),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.pid, int(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


class Nobody:
    """The agent of a server that launches nothing."""

    async def check(self) -> str:
        return "0"

    def require_containment(self) -> None: ...

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        raise AgentUnavailable("none", "there is no agent", hint="none is needed")

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        raise NotImplementedError


async def serve(folder: Path) -> None:
    """Until stdin ends. There is no housekeeping: the log stays as it was written."""

    async def resting(*words: object, **options: object) -> None: ...

    app.keep_house = resting  # type: ignore[attr-defined] # it is the name that app calls
    settings = Settings(data=str(folder), port=0, token=TOKEN)
    with listen(settings) as listener:
        async with app.opened(settings, token=TOKEN, projects=[], agent=Nobody()) as podium:
            server = uvicorn.Server(await configured(podium.app))
            running = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            print(listener.getsockname()[1], flush=True)
            await asyncio.to_thread(sys.stdin.read)
            server.should_exit = True
            await running


def cpu_seconds(pid: int) -> float:
    """Of all threads, kernel included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    return status_kb(pid, "VmRSS") / 1024


def peak_mb(pid: int) -> float:
    return status_kb(pid, "VmHWM") / 1024


def status_kb(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


# --- the readers ----------------------------------------------------------------------------------


def one_pass(port: int) -> float:
    """Subscribe from the start and read to `flow_run_caught_up`; frames a second. What came is
    looked at afterwards: every frame, once and in order."""
    with connected(port) as peer:
        began = time.perf_counter()
        say(peer, '{"type":"subscribe","id":"s","run_id":"%s"}' % RUN)  # noqa: UP031
        pieces, tail = [], b""
        while CAUGHT_UP not in tail:
            pieces.append(peer.recv(1 << 20))
            assert pieces[-1], "the server hung up"
            tail = tail[-200:] + pieces[-1]
        took = time.perf_counter() - began
    seqs = [int(it) for it in STORED.findall(b"".join(pieces))]
    assert seqs == list(range(1, len(seqs) + 1))
    return len(seqs) / took


def pings(port: int, times: int) -> list[float]:
    """Seconds that each of them took to be answered."""
    answers = []
    with connected(port) as peer:
        for _ in range(times):
            began = time.perf_counter()
            say(peer, '{"type":"ping","id":"p"}')
            tail = b""
            while b'"flow_run_ack"' not in tail:
                tail = tail[-200:] + peer.recv(1 << 16)
            answers.append(time.perf_counter() - began)
            time.sleep(0.02)
    return answers


def connected(port: int) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", port))
    key = base64.b64encode(bytes(16)).decode()
    peer.sendall(
        f"GET /api/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Protocol: podium.v1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += peer.recv(1)
    return peer


def say(peer: socket.socket, text: str) -> None:
    """One masked text message; the mask of zeros changes nothing."""
    data = text.encode()
    peer.sendall(struct.pack("!BB", 0x81, 0x80 | len(data)) + bytes(4) + data)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
