"""Sockets whose peer has vanished without a word: no packet comes from it any more, and nothing
that is sent to it arrives. They are found, and nothing of them is left."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.chaos.app import Pace
from tests.chaos.places import Lateness, accepted
from tests.chaos.servers import served
from tests.chaos.viewers import Place, all_finished, all_live, until, viewing
from tests.server.raw_peer import TEXT, raw_peer, subscribing

HEALTHY, GONE = 20, 50
FOUND_SECONDS = 25.0
LIVE = Pace(target=1_000_000, at_once=1, pause=0.25)


@pytest.mark.timeout(400)
async def test_peers_that_have_vanished_are_found(tmp_path: Path) -> None:
    late, loop = Lateness(), asyncio.get_running_loop()
    async with served(tmp_path, pace=LIVE) as server, AsyncExitStack() as peers:
        run_id = await server.launch()
        async with viewing(Place(server.url), run_id, HEALTHY) as crowd:
            await all_live(crowd)
            before, held = await server.state(), set(accepted(server.pid, server.port))
            each = [name for name, tasks in before.tasks.items() if tasks >= HEALTHY]
            assert each, "what a socket has of its own"
            gone = [await peers.enter_async_context(raw_peer(server.url)) for _ in range(GONE)]
            for number, peer in enumerate(gone):
                if number % 2:  # the others wait for something to follow
                    await peer.send(subscribing(run_id))
                await peer.until(TEXT)
                peer.deafen()
            ports = {peer.socket.getsockname()[1] for peer in gone}
            assert ports <= set(accepted(server.pid, server.port))
            began = loop.time()
            late.start()
            await until(
                lambda: not ports & set(accepted(server.pid, server.port)), seconds=100, every=0.1
            )
            late.stop()
            took, after = loop.time() - began, await server.state()
            # The request of a moment ago may still be about to end.
            await until(lambda: set(accepted(server.pid, server.port)) == held, seconds=30)
            assert after.sockets == before.sockets == HEALTHY
            async with asyncio.timeout(30):
                while any(after.tasks[name] > before.tasks[name] for name in each):
                    after = await server.state()
            assert {viewer.connects for viewer in crowd} == {1}, "who answers is let alone"
            await server.pace(Pace(ends=True))
            await all_finished(crowd)
    assert [viewer.wrong for viewer in crowd] == [[]] * HEALTHY
    assert took - late.seconds - (after.late - before.late) <= FOUND_SECONDS
