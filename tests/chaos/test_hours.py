"""Hours with people coming and going: what the server holds does not grow. PODIUM_SOAK_HOURS says
how many; eight by default."""

import asyncio
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.app import Pace
from tests.chaos.places import resident, sockets_of
from tests.chaos.servers import Served, served
from tests.chaos.viewers import Place, Viewer, all_finished, all_live, until, viewing

HOURS = float(os.environ.get("PODIUM_SOAK_HOURS", "8"))

pytestmark = [pytest.mark.soak, pytest.mark.timeout(HOURS * 3600 + 1_800)]

VIEWERS, CHURN = 300, 15
"""So many of them leave in each minute without a word, and come back."""
MINUTE = 60.0
RUN_MINUTES = 10
"""So long a run goes on; then it ends, and another one begins."""
LIVE = Pace(target=100_000_000, at_once=5, pause=0.25)
GROWTH = 8 * 1024 * 1024
"""Of the server's memory in eight hours: 1 MiB an hour. Shorter ones have the same room, because
an allocator needs some."""
WARM = 0.25
"""The part of the time that is not judged: caches fill, and the allocator takes its share."""


class Sample(NamedTuple):
    """Taken when everyone is there."""

    memory: int
    sockets: int
    tasks: int


async def test_nothing_grows(tmp_path: Path) -> None:
    samples: list[Sample] = []
    async with served(tmp_path, pace=LIVE) as server:
        minutes = max(2, round(HOURS * 60))
        while len(samples) < minutes:
            await one_run(server, samples, minutes=min(RUN_MINUTES, minutes - len(samples)))
    judged = samples[int(len(samples) * WARM) :]
    assert growth([sample.memory for sample in judged]) <= GROWTH
    assert max(sample.sockets for sample in judged) - judged[0].sockets <= 2
    assert max(sample.tasks for sample in judged) - judged[0].tasks <= 10


async def one_run(server: Served, samples: list[Sample], *, minutes: int) -> None:
    await server.pace(LIVE)
    run_id = await server.launch()
    async with viewing(Place(server.url), run_id, VIEWERS) as crowd:
        for minute in range(minutes):
            await churn(crowd, minute)
            await all_live(crowd)
            state = await server.state()
            held = len(sockets_of(server.pid))
            samples.append(Sample(resident(server.pid), held, sum(state.tasks.values())))
        await server.pace(Pace(ends=True))
        await all_finished(crowd, seconds=300)
    log = await server.log(run_id)
    assert [viewer.wrong for viewer in crowd] == [[]] * VIEWERS
    assert {(viewer.last, viewer.sum) for viewer in crowd} == {log.end}


async def churn(crowd: Sequence[Viewer], minute: int) -> None:
    """Over one minute."""
    for number in range(CHURN):
        viewer = crowd[(minute * CHURN + number) % len(crowd)]
        await until(viewer.abort, seconds=60)
        await asyncio.sleep(MINUTE / CHURN)


def growth(memory: Sequence[int]) -> float:
    """By the straight line through the samples: from the first one to the last one."""
    if len(memory) < 2:
        return 0.0
    line = statistics.linear_regression(range(len(memory)), memory)
    return line.slope * (len(memory) - 1)


def test_the_line_sees_a_leak() -> None:
    """The control: 2 MiB an hour, in steps, among the noise of an allocator."""
    noise = [0, 300_000, 100_000]
    leak = [minute * 2 * 1024 * 1024 // 60 + noise[minute % 3] for minute in range(480)]
    assert growth(leak) > GROWTH
    assert growth([noise[minute % 3] for minute in range(480)]) < GROWTH / 8
