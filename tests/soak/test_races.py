"""The long form of races that the merge form runs a few times: `make soak`."""

import asyncio
from pathlib import Path

import pytest

from tests.server.harness import house

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1_800)]

ROUNDS = 1_000
MOMENTS = 60
"""Places of a run's life, in turns of the loop, at which the cancel arrives."""


async def test_a_thousand_cancels_race_the_end(tmp_path: Path) -> None:
    ends: dict[str, int] = {}
    async with house(tmp_path) as home:
        for number in range(ROUNDS):
            run_id = await home.launch()
            for _ in range(number % MOMENTS):
                await asyncio.sleep(0)
            await home.http.post(f"/api/runs/{run_id}/cancel")
            frames = await home.end_of(run_id)
            assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
            assert sum(frame["type"] == "flow_run_finished" for frame in frames) == 1
            status = frames[-1]["status"]
            run = (await home.http.get(f"/api/runs/{run_id}")).json()["run"]
            assert run["status"] == status
            ends[status] = ends.get(status, 0) + 1
    assert home.agent.running == set()
    assert ends.get("cancelled", 0) > 0
