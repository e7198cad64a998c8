"""`python -m tests.chaos.app TOLD`: podium in a process of its own, to be killed and overloaded.

Signals, store, conductor, hub, channel and uvicorn are those of `podium serve`. The one stand-in is
the agent: its attempt publishes frames as fast as it is told, through the same `emit` as a real
one, until the log has as many as are wanted. TOLD is a `Told` as JSON.
"""

import asyncio
import ctypes
import gc
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows import engine
from protocol.frames import Channel, FlowRunStepDelta, FlowRunStepTool, ToolStatus
from protocol.ids import RunId
from server import app as product
from server import serve
from server.app import Podium, opened
from server.limits import LimitSettings
from server.ports import AgentFrame, AgentOrder, AgentResult, Emit
from server.settings import EndpointSettings, Settings
from server.stores.sqlite import FILE, SqliteStore
from tests.chaos.broken import GUARDS, OF_STRANGERS
from tests.chaos.places import Lateness
from tests.fakes.agent import FakeAgent
from tests.server.harness import TOKEN

STEP = "review.security"
"""The step whose attempt publishes, when the run was asked to; the others answer at once."""
PUBLISH = "publish frames"


class Pace(Struct, frozen=True, kw_only=True):
    """What the publisher is to do: `at_once` frames, `pause` seconds, and again."""

    target: int = 0
    """Frames of the log at which it waits for another target."""
    ends: bool = False
    """Whether the run ends at the target."""
    at_once: int = 200
    pause: float = 0.0
    size: int = 120
    """Bytes of text in a frame."""
    read_only: bool = False
    """Whether the disk takes nothing: every write of the store fails."""


class Told(Struct, frozen=True, kw_only=True):
    data: str
    project: str
    pace: Pace = Pace()
    boot_id: str | None = None
    """None is the machine's own."""
    without: str | None = None
    """The guard that is taken away, of `broken.GUARDS` and `broken.OF_STRANGERS`."""
    settings: dict[str, Any] = {}
    # The tests have one user for all their sockets.
    limits: LimitSettings = LimitSettings(sockets_per_user=1_000)


class State(Struct, frozen=True, kw_only=True):
    """What `GET /chaos` answers."""

    tasks: dict[str, int]
    """By the name of what they do."""
    sockets: int
    """That the application serves."""
    late: float
    """Seconds by which timers of the loop were late, in all."""
    log: int
    """Frames of the log by what the publisher knows; others may have added some."""


class Publisher(FakeAgent):
    def __init__(self, told: Told) -> None:
        super().__init__()
        self._file = Path(told.data) / FILE
        self._pace = told.pace
        self._changed = asyncio.Event()
        self.log = 0
        self.late = Lateness()

    def tell(self, pace: Pace) -> None:
        self._pace = pace
        self._changed.set()

    async def start(self) -> None:
        self.late.start()

    async def stop(self) -> None:
        self.late.stop()

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        if order.ref.step_id == STEP and PUBLISH in order.prompt.user:
            self.log = await asyncio.to_thread(head_of, self._file, order.ref.run_id)
            await self._publish(order, emit)
        return await super().run(order, emit)

    async def _publish(self, order: AgentOrder, emit: Emit) -> None:
        """Up to the target, and then for the next one, until a target is the last."""
        number = 0
        while self.log < self._pace.target or not self._pace.ends:
            count = min(self._pace.at_once, self._pace.target - self.log)
            if count <= 0:
                await self._changed.wait()
                self._changed.clear()
                continue
            await emit([frame(order, number + place, self._pace.size) for place in range(count)])
            number += count
            self.log += count
            if self._pace.pause:
                await asyncio.sleep(self._pace.pause)


def frame(order: AgentOrder, number: int, size: int) -> AgentFrame:
    """Deltas and tool calls in turn, so that no two deltas are merged: a frame is a frame."""
    text = f"{number} ".ljust(size, "é" if number % 7 == 0 else "x")
    ref = order.ref
    if number % 2:
        return FlowRunStepDelta(
            run_id=ref.run_id, step_id=ref.step_id, attempt=ref.attempt,
            channel=Channel.THINKING, offset=number * size, text=text,
        )  # fmt: skip
    return FlowRunStepTool(
        run_id=ref.run_id, step_id=ref.step_id, attempt=ref.attempt, call_id=str(number),
        name="glob", status=ToolStatus.OK, summary=text,
    )  # fmt: skip


def head_of(file: Path, run_id: RunId) -> int:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        (head,) = db.execute("SELECT head FROM flow_runs WHERE id = ?", (run_id,)).fetchone()
    return int(head)


def give_back() -> None:
    """Let the system have what is garbage, and what the allocator keeps for later: the rest is what
    the server holds."""
    gc.collect()
    with suppress(AttributeError):  # another C library than Debian's
        ctypes.CDLL(None).malloc_trim(0)


def route(agent: Publisher, podium: Podium) -> Route:
    """`POST /chaos` tells the publisher another pace; both methods answer with the state."""

    async def chaos(request: Request) -> Response:
        if request.method == "POST":
            pace = msgspec.json.decode(await request.body(), type=Pace)
            store = podium.channel._store
            assert isinstance(store, SqliteStore)
            await store._writer._db.execute(f"PRAGMA query_only={int(pace.read_only)}")
            agent.tell(pace)
        if request.query_params.get("trim"):
            give_back()
        names = [getattr(it.get_coro(), "__qualname__", "") for it in asyncio.all_tasks()]
        state = State(
            tasks=Counter(names),
            sockets=len(podium.channel._sessions),
            late=agent.late.seconds,
            log=agent.log,
        )
        return Response(msgspec.json.encode(state))

    return Route("/chaos", chaos, methods=["GET", "POST"])


def prepare(told: Told) -> None:
    """What the product has no setting for, or what a test must do more often than it allows."""
    patches = pytest.MonkeyPatch()
    change = patches.setattr
    if told.without is not None:
        {**GUARDS, **OF_STRANGERS}[told.without](patches)
    change(engine, "MAX_CRASHES", 1_000_000)
    if told.boot_id is not None:
        change(product, "boot_id", lambda: told.boot_id)

    @asynccontextmanager
    async def with_publisher(settings: Settings, **how: Any) -> AsyncIterator[Podium]:
        agent = Publisher(told)
        async with opened(settings, agent=agent, **how) as podium:
            podium.app.router.routes.insert(0, route(agent, podium))
            yield podium

    change(serve, "opened", with_publisher)


def main() -> int:
    told = msgspec.json.decode(sys.argv[1], type=Told)
    prepare(told)
    endpoint = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m")
    usual: dict[str, Any] = {
        "data": told.data,
        "port": 0,
        "token": TOKEN,
        "endpoints": {"default": endpoint},
        "log_level": "warning",
        "limits": told.limits,
    }
    settings = Settings(**(usual | told.settings))
    return asyncio.run(serve.serve(settings, projects=[told.project], with_parent=True))


if __name__ == "__main__":
    sys.exit(main())
