"""A server that is told to stop says so to everyone, waits for nobody who does not read, and is
gone in time; whoever comes back to the next one has lost nothing."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.chaos.app import Pace
from tests.chaos.places import Lateness, accepted, waiting_for
from tests.chaos.servers import Served, served
from tests.chaos.viewers import Place, all_finished, all_live, until, viewing
from tests.server.raw_peer import raw_peer, subscribing

LIVE_VIEWERS, STALLED = 490, 10
LOG = Pace(target=2_000, at_once=250, size=4_000)
LIVE = Pace(target=10_000_000, at_once=20, pause=0.1)
LAST = Pace(target=0, ends=True)
EXIT_SECONDS = 15.0
TOLD = 0.99
STUCK = 256 * 1024
"""Bytes that wait in the kernel for a peer that does not read."""


@pytest.mark.alone
@pytest.mark.timeout(400)
async def test_a_stop_is_told_and_loses_nothing(tmp_path: Path) -> None:
    # Those who stall are there until the stop, however long this takes.
    settings = {"stall_seconds": 600}
    async with (
        served(tmp_path, pace=LOG, settings=settings) as server,
        AsyncExitStack() as peers,
    ):
        run_id = await server.launch()
        await server.published(LOG.target)
        place = Place(server.url)
        async with viewing(place, run_id, LIVE_VIEWERS, after=LOG.target) as crowd:
            await all_live(crowd)
            await server.pace(LIVE)
            for _ in range(STALLED):
                peer = await peers.enter_async_context(raw_peer(server.url))
                await peer.send(subscribing(run_id))
                await until(lambda: waiting_for(peer.socket) > STUCK, seconds=60)  # noqa: B023 - used at once
            assert len(accepted(server.pid, server.port)) == LIVE_VIEWERS + STALLED
            await place.move(None)
            took = await stopped(server)
            before = await server.log(run_id, after=LOG.target)
            await server.start(pace=LAST)
            await place.move(server.url)
            await all_finished(crowd, seconds=120)
        log = await server.log(run_id, after=LOG.target)
    assert took <= EXIT_SECONDS
    told = [viewer for viewer in crowd if viewer.codes == [1012] and len(viewer.draining) == 1]
    assert len(told) >= TOLD * LIVE_VIEWERS
    assert spread([told for viewer in crowd for told in viewer.draining])
    assert [viewer.wrong for viewer in crowd] == [[]] * LIVE_VIEWERS
    assert {(viewer.last, viewer.sum) for viewer in crowd} == {log.end}
    assert log.whole
    assert log.begins_with(before)


async def stopped(server: Served) -> float:
    """Seconds from SIGTERM to the end of the process."""
    late, loop = Lateness(), asyncio.get_running_loop()
    late.start()
    began = loop.time()
    async with asyncio.timeout(120):
        assert await server.stop() == 0
    late.stop()
    return loop.time() - began - late.seconds


def spread(milliseconds: Sequence[int]) -> bool:
    """Whether the clients come back over a time, and not in one rush: no tenth of it has more than
    twice its share of them."""
    first, last = min(milliseconds), max(milliseconds)
    if last - first < 1_000:
        return False
    tenths = Counter((one - first) * 10 // (last - first + 1) for one in milliseconds)
    return max(tenths.values()) <= 2 * len(milliseconds) / 10


def test_one_answer_for_all_is_no_spread() -> None:
    """The control."""
    assert not spread([2_000] * LIVE_VIEWERS)
    assert not spread([2_000] * LIVE_VIEWERS + [9_000])
    assert spread(range(1_000, 6_000, 10))
