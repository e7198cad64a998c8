"""No frame is lost, doubled or out of order, whoever is killed: servers with SIGKILL, viewers with
a reset. A viewer that comes back with its cursor has, in the end, the log byte for byte."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.app import Pace
from tests.chaos.servers import Log, Served, served
from tests.chaos.viewers import Place, Viewer, all_finished, until, viewing

KILLS, ABORTS = 10, 200
AHEAD = 2 * (KILLS + 1)
"""So far, of all frames, the publisher may be ahead of the place where its server is killed: on a
slow machine it waits there for the viewers."""


@pytest.mark.parametrize(
    ("frames", "viewers"),
    [
        pytest.param(100_000, 50, marks=pytest.mark.timeout(600)),
        pytest.param(1_000_000, 200, marks=[pytest.mark.soak, pytest.mark.timeout(7_200)]),
    ],
)
async def test_no_frame_is_lost_doubled_or_out_of_order(
    tmp_path: Path, frames: int, viewers: int
) -> None:
    ats = moments(frames)
    paces = [Pace(target=at + frames // AHEAD) for at in ats] + [Pace(target=frames, ends=True)]
    async with served(tmp_path, pace=paces[0]) as server:
        run_id = await server.launch()
        place = Place(server.url)
        async with viewing(place, run_id, viewers) as crowd:
            aborting = asyncio.create_task(abort(crowd, frames))
            before = [
                await kill(server, place, crowd, run_id, at=at, then=then)
                for at, then in zip(ats, paces[1:], strict=True)
            ]
            aborted = await aborting
            await all_finished(crowd, seconds=frames / 500)
        log = await server.log(run_id)
    assert log.whole
    assert log.head >= frames
    assert [viewer.wrong for viewer in crowd] == [[]] * viewers
    assert {(viewer.last, viewer.sum) for viewer in crowd} == {log.end}
    assert aborted == ABORTS
    assert all(log.begins_with(earlier) for earlier in before)
    heads = [earlier.head for earlier in before]
    assert heads == sorted(heads)
    assert 0 < heads[0] < heads[-1] < log.head


def moments(frames: int) -> list[int]:
    """The heads at which the server is killed."""
    return [frames * number // (KILLS + 1) for number in range(1, KILLS + 1)]


async def kill(
    server: Served,
    place: Place,
    crowd: Sequence[Viewer],
    run_id: str,
    *,
    at: int,
    then: Pace,
) -> Log:
    """Once a viewer is so far; returns what is on the disk while there is no server."""
    await until(lambda: max(viewer.last for viewer in crowd) >= at, seconds=600)
    await server.kill()
    await place.move(None)
    log = await server.log(run_id)
    assert log.whole
    # Committed first, shown second: nobody has seen what a crash took back.
    assert max(viewer.last for viewer in crowd) <= log.head
    await server.start(pace=then)
    await place.move(server.url)
    return log


async def abort(crowd: Sequence[Viewer], frames: int) -> int:
    """Viewers in turn, each at a frame of its own; one that is not connected is waited for."""
    chance = random.Random(4)
    wanted = sorted((chance.randrange(1, frames), number) for number in range(ABORTS))
    for at, number in wanted:
        viewer = crowd[number % len(crowd)]
        await until(lambda: viewer.last >= at, seconds=600)  # noqa: B023 - used at once
        await until(viewer.abort, seconds=600)
    return len(wanted)
