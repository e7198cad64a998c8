"""podium itself as a server of the benchmarks: the real sockets, sessions, hub and store.

`python -m benchmarks.servers.podium WAY FOLDER [--loop uvloop] [--look]`. Of the ways, `ready`
frames once and writes to each pane's outbox, which is what stands between the channel and the
kernel. Three hand ready frames to the hub, as the store does after a commit: `each` one by one,
`joined` all that were asked for together, `tick` what a flush tick has gathered. With `lines` each
line of stdin is one of an agent: it is parsed, committed and published. SIGUSR1 prints what was
measured since the last; with `--look` that is how late the loop is, too, for a few percent more
CPU time.
"""

import argparse
import asyncio
import json
import signal
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from benchmarks.feed import announce, asked, heard
from benchmarks.frames import payload
from benchmarks.loops import fastest
from protocol.ids import RunId, Seq
from protocol.plan import Endpoint
from server import logs
from server.agents.introduction import Expected
from server.agents.stream_json import StreamParser
from server.app import Podium, opened
from server.channel.framing import batch_of
from server.limits import LimitSettings
from server.ports import AgentOrder, AgentResult, Emit, Hub, LogEntry, ModelEndpoint, Probe
from server.serve import collect_rarely, configured, listen
from server.settings import EndpointSettings, Settings
from tests.repositories import committed

TOKEN = "of-the-benchmarks-alone-0123456789"
TICK_SECONDS = 0.025
"""As the store's."""
LOOK_SECONDS = 0.005
"""How often the loop's lag is looked at."""
RUN = RunId("5b0cfe0a-6a0e-4d0c-9b1d-0d9c5f3f7d11")
"""A run whose log is empty, and which no agent writes to."""
INTRODUCTION = {
    "type": "system",
    "subtype": "init",
    "qwen_code_version": "0.24.4",
    "permission_mode": "plan",
    "model": "bench",
    "tools": ["glob", "grep_search", "read_file", "structured_output"],
    "mcp_servers": [],
}


class Lines:
    """The one agent: what it says is what stdin says. It never ends by itself."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._more = asyncio.Event()
        self.started: asyncio.Future[RunId] = asyncio.get_running_loop().create_future()
        self.commits: list[float] = []
        """Seconds from a frame's making to its commit."""

    def take(self, data: bytes) -> None:
        self._data += data
        self._more.set()

    async def check(self) -> str:
        return "0.24.4"

    def require_containment(self) -> None: ...

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        public = Endpoint(name=endpoint.name, host="none", model=endpoint.model)
        return Probe(public=public, slots=1, context_tokens=None)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        expected = Expected(version="0.24.4", model="bench")
        parser = StreamParser(order.ref, expected=expected, tree=str(order.tree))
        parser.feed(json.dumps(INTRODUCTION).encode() + b"\n")
        assert parser.failure is None, parser.failure
        if not self.started.done():
            self.started.set_result(order.ref.run_id)
        while True:
            await self._more.wait()
            self._more.clear()
            data = bytes(self._data)
            self._data.clear()
            frames = parser.feed(data)
            began = time.perf_counter()
            if frames:
                await emit(frames)
                self.commits += [time.perf_counter() - began] * len(frames)


class Ready:
    """Frames that are ready, given to the hub."""

    def __init__(self, podium: Podium) -> None:
        # The store's side of the hub, and the panes' of the channel, have no other door.
        self._hub: Hub = podium.channel._hub
        self._sessions = podium.channel._sessions
        self._number = 0
        self._gathered: list[LogEntry] = []
        self._asked = asyncio.Queue[int]()

    def joined(self, count: int) -> None:
        self._hub.publish(self._entries(count))

    def tick(self, count: int) -> None:
        if not self._gathered:
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._flush)
        self._gathered += self._entries(count)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._hub.publish(gathered)

    async def each(self) -> None:
        """A commit for each frame: every session writes it before the next one comes."""
        while True:
            for _ in range(await self._asked.get()):
                self._hub.publish(self._entries(1))
                await asyncio.sleep(0)

    async def ready(self) -> None:
        """No session has a part in it."""
        while True:
            for _ in range(await self._asked.get()):
                (entry,) = self._entries(1)
                batch = batch_of(Seq(entry.seq - 1), [entry], outline=False, cut=False)
                for session in self._sessions:
                    if not session._outbox.express(batch):
                        session._outbox.batch(batch)
                        await session._outbox.flush()

    def ask(self, count: int) -> None:
        self._asked.put_nowait(count)

    def _entries(self, count: int) -> list[LogEntry]:
        first = self._number + 1
        self._number += count
        return [
            LogEntry(RUN, Seq(number), payload(number), False)
            for number in range(first, first + count)
        ]


class Lag:
    """How late the loop is, looked at all the time."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    async def look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self.seen.append(loop.time() - due)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["ready", "each", "joined", "tick", "lines"])
    parser.add_argument("below", type=Path)
    parser.add_argument("--loop", default="asyncio")
    parser.add_argument("--look", action="store_true")
    given = parser.parse_args()
    logs.configure(level="warning", as_json=False)
    endpoint = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="bench")
    folder = Path(tempfile.mkdtemp(dir=given.below))
    data = folder / "data"
    settings = Settings(
        data=str(data),
        port=0,
        token=TOKEN,
        endpoints={"default": endpoint},
        # A benchmark has more sockets than a user may have.
        limits=LimitSettings(sockets_per_user=10_000),
    )
    project, lines, lag = repository(folder / "project"), Lines(), Lag()
    with listen(settings) as listener:
        async with opened(settings, token=TOKEN, projects=[project], agent=lines) as podium:
            server = uvicorn.Server(await configured(podium.app))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            port = listener.getsockname()[1]
            run_id = await launched(f"http://127.0.0.1:{port}", lines)
            working = [asyncio.create_task(lag.look())] if given.look else []
            if given.way == "lines":
                heard(lines.take)
            else:
                await asyncio.to_thread(cloned, data, run_id, RUN)
                run_id = RUN
                working += publish(podium, given.way)
            tell_at_signal(lines, lag)
            collect_rarely()
            announce(port, **way_in(run_id, data))
            await serving
            for task in working:
                task.cancel()


def publish(podium: Podium, way: str) -> list[asyncio.Task[None]]:
    """Let stdin ask for frames that are published in this way. Returns what does it."""
    ready = Ready(podium)
    if way in ("joined", "tick"):
        asked(ready.joined if way == "joined" else ready.tick)
        return []
    asked(ready.ask)
    return [asyncio.create_task(ready.each() if way == "each" else ready.ready())]


def way_in(run_id: str, data: Path) -> dict[str, Any]:
    """How a socket follows the run from now on."""
    headers = [f"Authorization: Bearer {TOKEN}", "Sec-WebSocket-Protocol: podium.v1"]
    subscribe = {"type": "subscribe", "id": "1", "run_id": run_id, "tail": 0}
    return {
        "path": "/api/ws",
        "headers": headers,
        "say": [json.dumps(subscribe)],
        "ready": "flow_run_caught_up",
        "run_id": run_id,
        "token": TOKEN,
        "data": str(data),
    }


def tell_at_signal(lines: Lines, lag: Lag) -> None:
    def tell() -> None:
        commits, seen = list(lines.commits), list(lag.seen)
        lines.commits.clear()
        lag.seen.clear()
        told = {"commit": p99(commits), "lag": p99(seen), "commits": len(commits)}
        print(json.dumps(told), flush=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)


def p99(values: list[float]) -> float | None:
    return statistics.quantiles(values, n=100)[98] if len(values) > 1 else None


async def launched(url: str, lines: Lines) -> RunId:
    """A run whose only agent is at work."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
        project_id = (await http.get("/api/projects")).json()["projects"][0]["id"]
        body = {"flow_name": "code-review", "band": "small", "input": {"question": "errors"}}
        answer = await http.post("/api/runs", json={"project_id": project_id, **body})
        assert answer.is_success, answer.text
    return await lines.started


def cloned(data: Path, run_id: str, *others: str) -> None:
    """Rows of further runs, as the first one's but with an empty log."""
    with closing(sqlite3.connect(data / "podium.db", timeout=30)) as db, db:
        names = [row[1] for row in db.execute("PRAGMA table_info(flow_runs)")]
        changed = {"number": "NULL", "id": "?", "launch_key": "NULL", "head": "0"}
        changed |= {"outline_head": "0", "floor": "0"}
        values = ", ".join(changed.get(name, name) for name in names)
        copying = f"INSERT INTO flow_runs SELECT {values} FROM flow_runs WHERE id = ?"
        db.executemany(copying, [(other, run_id) for other in others])
        first = "INSERT INTO flow_generations SELECT ?, 1, 0"
        db.executemany(first, [(other,) for other in others])


def repository(folder: Path) -> Path:
    """A project of one file."""
    return committed(folder, {"main.py": "value = 1\n"})


def loop_of(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    return fastest() if name == "uvloop" else asyncio.new_event_loop


if __name__ == "__main__":
    import sys

    with asyncio.Runner(loop_factory=loop_of("uvloop" if "uvloop" in sys.argv else "")) as runner:
        runner.run(main())
