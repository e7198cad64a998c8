"""Whoever stops reading is freed, costs little memory until then, and slows nobody."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.app import Pace
from tests.chaos.places import Lateness, accepted, resident, waiting
from tests.chaos.servers import Served, served
from tests.chaos.viewers import Place, Viewer, all_finished, all_live, until, viewing
from tests.server.raw_peer import RawPeer, raw_peer, subscribing

HEALTHY, STALLED = 180, 20
LOG = Pace(target=3_000, at_once=250, size=4_000)
"""12 MB, so that whoever asks for all of it and does not read is stalled at once."""
LIVE = Pace(target=10_000_000, at_once=20, pause=0.02)
FREED_SECONDS = 12.0
MEMORY = 2 * 1024 * 1024
"""Of the server, for each stalled socket."""
SHARE = 0.8
"""Of what was published while the stalled were there, each healthy viewer has so much then."""


class Seen(NamedTuple):
    """From the first stalled socket to the last one that is freed."""

    seconds: float
    """Without those that the machine took from the server or from this test."""
    memory: int
    """Bytes that the server had more than before, at most."""
    shares: list[float]
    """Of what was published: what each healthy viewer got."""


@pytest.mark.alone
@pytest.mark.timeout(400)
async def test_stalled_viewers_are_freed_and_slow_nobody(tmp_path: Path) -> None:
    async with served(tmp_path, pace=LOG) as server, AsyncExitStack() as peers:
        run_id = await server.launch()
        await server.published(LOG.target)
        async with viewing(Place(server.url), run_id, HEALTHY, after=LOG.target) as crowd:
            await all_live(crowd)
            await server.pace(LIVE)
            before = resident(server.pid)
            stalled = [
                await peers.enter_async_context(raw_peer(server.url)) for _ in range(STALLED)
            ]
            for peer in stalled:
                await peer.send(subscribing(run_id))
            seen = await freed(server, crowd, stalled, before=before)
            await server.pace(Pace(ends=True))
            await all_finished(crowd)
        assert waiting(server.port) == 0, "the kernel holds nothing for them either"
        for peer in stalled:
            await assert_reset(peer)
        log = await server.log(run_id, after=LOG.target)
    assert [viewer.wrong for viewer in crowd] == [[]] * HEALTHY
    assert log.whole
    assert {(viewer.last, viewer.sum) for viewer in crowd} == {log.end}
    assert {viewer.connects for viewer in crowd} == {1}
    assert seen.seconds <= FREED_SECONDS
    assert seen.memory <= STALLED * MEMORY
    assert min(seen.shares) >= SHARE


async def freed(
    server: Served, crowd: Sequence[Viewer], stalled: Sequence[RawPeer], *, before: int
) -> Seen:
    """Wait until the server has no descriptor of the stalled any more."""
    ports = {peer.socket.getsockname()[1] for peer in stalled}
    loop, late = asyncio.get_running_loop(), Lateness()
    first, began = await server.state(), loop.time()
    lasts = [viewer.last for viewer in crowd]
    most = before

    def gone() -> bool:
        nonlocal most
        most = max(most, resident(server.pid))
        return not ports & set(accepted(server.pid, server.port))

    assert not gone(), "they are there"
    late.start()
    await until(gone, seconds=120, every=0.1)
    late.stop()
    took = loop.time() - began
    last = await server.state()
    published = last.log - first.log
    shares = [(viewer.last - was) / published for viewer, was in zip(crowd, lasts, strict=True)]
    return Seen(took - late.seconds - (last.late - first.late), most - before, shares)


async def assert_reset(peer: RawPeer) -> None:
    """What the kernel had taken for it may still be read; then there is no end but a reset."""
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(20):
            while await asyncio.get_running_loop().sock_recv(peer.socket, 65_536):
                pass
            pytest.fail("the server ended it in order, and waits until all is read")
