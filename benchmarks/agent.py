"""The rows about what an agent writes: how long until it is on a socket."""

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.options import Options
from benchmarks.rows import Row
from benchmarks.server import Bench, launched, stand_in
from benchmarks.starts import tree
from protocol.frames import FlowRunStepTool
from server.client import Client


def agent_rows(options: Options) -> list[Row]:
    seconds = options.size(4, 1)
    return [asyncio.run(agent_to_socket(rate, seconds)) for rate in (50, 1_000)]


async def agent_to_socket(rate: int, seconds: int) -> Row:
    """One agent that writes at a rate; each frame carries the time it was written."""
    with tempfile.TemporaryDirectory() as folder:
        project = tree(Path(folder) / "project")
        async with stand_in(
            Path(folder) / "data", project, model=f"rate-{rate}-for-{seconds}"
        ) as bench:
            delays = await watched(bench)
    p50, p99 = statistics.median(delays), statistics.quantiles(delays, n=100)[98]
    measured = f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, {len(delays)} frames"
    name = f"agent writes → socket, {rate:,} frames/s"
    return Row(name, "≤ 100 ms", measured, p99 <= 0.1, loose="≤ 200 ms", failed=p99 > 0.2)


async def watched(bench: Bench) -> list[float]:
    delays = []
    async with Client(bench.url, bench.token) as client:
        run_id = await launched(client, "/code-review small --only generalist")
        async for frame in client.follow(run_id):
            if isinstance(frame, FlowRunStepTool) and frame.name == "glob" and frame.args:
                delays.append(time.time() - float(json.loads(frame.args)["at"]))
    return delays
