"""The row about a whole attempt: what podium adds to the CLI's own run.

A run with the demo model shows what the agent is ordered to do; then the very same order is carried
out by the CLI alone and by podium's runner in turn, against the same model.
"""

import asyncio
import json
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.options import Options
from benchmarks.rows import Bound, Row, bounded
from benchmarks.server import launched, serving
from benchmarks.starts import tree
from protocol.ids import RunId
from server.agents import installation, invocation
from server.agents.invocation import Door, Places
from server.agents.qwen_runner import QwenRunner
from server.client import Client
from server.demo.process import DemoProcess
from server.ports import AgentFrame, AgentOrder, AgentResult, Emit
from server.settings import EndpointSettings, Settings
from server.world import SystemClock

PAIRS = 8
ALONE_SECONDS = 300.0


class Noting(QwenRunner):
    """The real runner; it keeps what it was ordered to do."""

    order: AgentOrder | None = None

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        self.order = order
        return await super().run(order, emit)


def overhead_rows(options: Options) -> list[Row]:
    more = asyncio.run(measured(options.place / "overhead", options.size(PAIRS, 1)))
    return [bounded("an attempt, beyond the CLI's own run", more, Bound(5, 10, "%"))]


async def measured(place: Path, pairs: int) -> list[float]:
    """Per cent beyond the CLI alone, of each pair; the first one warms."""
    project = await asyncio.to_thread(tree, place / "project")
    data = place / "data"
    data.mkdir()
    async with DemoProcess(pace=0) as demo:
        endpoint = EndpointSettings(base_url=demo.base_url, model="podium-demo")
        settings = Settings(data=str(data), port=0, endpoints={"default": endpoint})
        agent = Noting(data, clock=SystemClock())
        async with serving(settings, project, agent) as bench:
            async with Client(bench.url, bench.token) as client:
                run_id = await launched(client, "/code-review small --only generalist")
                async for _ in client.follow(run_id):
                    pass
            assert agent.order is not None
            pairs_of = [await pair(agent, agent.order, place / str(it)) for it in range(pairs + 1)]
    return [(ours / alone - 1) * 100 for alone, ours in pairs_of[1:]]


async def pair(agent: QwenRunner, noted: AgentOrder, place: Path) -> tuple[float, float]:
    """Seconds of the CLI alone, and of podium's attempt."""
    order = renewed(noted)
    alone = await asyncio.to_thread(by_itself, order, place)
    began = time.perf_counter()
    result = await agent.run(order, unheard)
    took = time.perf_counter() - began
    assert result.failure is None, result.failure
    return alone, took


def renewed(order: AgentOrder) -> AgentOrder:
    ref = msgspec.structs.replace(order.ref, run_id=RunId(str(uuid.uuid4())))
    return msgspec.structs.replace(order, ref=ref, session_id=str(uuid.uuid4()))


def by_itself(order: AgentOrder, directory: Path) -> float:
    """Seconds of the CLI with the same arguments, and nothing around it."""
    installed, places = installation.find(), Places(directory)
    places.home.mkdir(parents=True)
    places.cwd.mkdir()
    places.settings.write_text(json.dumps(invocation.settings(installed, order)))
    places.schema.write_text(json.dumps(order.schema))
    door = Door(order.endpoint.base_url, "none")
    began = time.perf_counter()
    done = subprocess.run(
        invocation.command(installed, order, places),
        cwd=places.cwd,
        env=invocation.environment(installed, order, places, door),
        input=order.prompt.user.encode(),
        capture_output=True,
        check=False,
        timeout=ALONE_SECONDS,
    )
    took = time.perf_counter() - began
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["subtype"] == "success", last
    return took


async def unheard(frames: Sequence[AgentFrame]) -> None:
    del frames
