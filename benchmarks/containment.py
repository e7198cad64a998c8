"""What holding an agent costs per attempt: a Node that does nothing, in and out, one after the
other, so that both meet the same machine."""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.options import Options
from benchmarks.rows import Row
from server.agents.containment import ladder
from server.agents.containment.cage import SHIPPED, Launch, unconfined
from server.agents.containment.limits import Limits
from server.agents.containment.spawn import spawn
from server.agents.containment.trial import trial_room
from server.agents.installation import find_node

STARTS = 25
NOTHING = ["-e", "0"]


class Costs(NamedTuple):
    """Milliseconds beyond the bare start: the median of pairs, with the quarter on each side."""

    contained: str
    guarded: str
    good: bool


def containment_rows(options: Options) -> list[Row]:
    costs = asyncio.run(containment_costs(options.size(STARTS, 2)))
    return [
        Row("containment and self-test, per attempt", "≤ 50 ms", costs.contained, costs.good),
        Row("guardian instead, per attempt", "", costs.guarded, True),
    ]


async def containment_costs(starts: int) -> Costs:
    """`contained` includes the self-test and its report."""
    node = (await asyncio.to_thread(find_node)).program
    found = await ladder.examine(node, SHIPPED)
    with tempfile.TemporaryDirectory() as folder:
        environment = {"HOME": folder, "PATH": "/usr/bin:/bin"}
        command = [str(node), *NOTHING]
        guarded = unconfined(command, environment, Limits())
        bare = guarded._replace(command=command, guarded=False)
        more: dict[str, list[float]] = {"contained": [], "guarded": []}
        async with trial_room(node, SHIPPED) as room:
            for _ in range(starts):
                plain = await took(bare)
                more["guarded"].append(await took(guarded) - plain)
                began = time.perf_counter()
                trial = await room.attempt(found)
                more["contained"].append(time.perf_counter() - began - plain)
                assert trial.proven, trial.said
    return Costs(
        contained=shown(more["contained"]),
        guarded=shown(more["guarded"]),
        good=statistics.median(more["contained"]) <= 0.05,
    )


async def took(launch: Launch) -> float:
    nowhere = asyncio.subprocess.DEVNULL
    began = time.perf_counter()
    process, lifeline = await spawn(
        launch, cwd=Path("/"), stdin=nowhere, stdout=nowhere, stderr=nowhere
    )
    await process.wait()
    if lifeline is not None:
        os.close(lifeline)
    return time.perf_counter() - began


def shown(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"+{middle * 1000:.0f} ms ({low * 1000:.0f}–{high * 1000:.0f})"
