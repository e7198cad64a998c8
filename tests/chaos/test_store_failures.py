"""A disk that takes nothing for a while: whoever asks for more is told so, whoever looks on loses
nothing, and all goes on by itself."""

import asyncio
import json
import resource
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from server.stores.sqlite import FILE
from tests.chaos.app import Pace
from tests.chaos.servers import Served, served
from tests.chaos.viewers import Place, all_finished, all_live, viewing
from tests.server.raw_peer import TEXT, frame, raw_peer

pytestmark = pytest.mark.timeout(300)

VIEWERS = 10
LIVE = Pace(target=10_000_000, at_once=20, pause=0.02)
FILES = 64 * 1024
"""No file of the server may grow beyond it while its disk is full: less than its journal has."""


@asynccontextmanager
async def full(server: Served) -> AsyncIterator[None]:
    """The kernel refuses to write, as it does when there is no room."""
    limits = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (FILES, limits[1]))
    yield
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, limits)


@asynccontextmanager
async def locked(server: Served) -> AsyncIterator[None]:
    """Another program, as a backup, holds the database for longer than a write waits."""
    with closing(sqlite3.connect(server.data / FILE, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


@asynccontextmanager
async def read_only(server: Served) -> AsyncIterator[None]:
    await server.pace(Pace(target=LIVE.target, at_once=20, pause=0.02, read_only=True))
    yield
    await server.pace(LIVE)


@pytest.mark.parametrize("failing", [full, locked, read_only])
async def test_a_disk_that_fails_costs_no_viewer_a_frame(tmp_path: Path, failing: Any) -> None:
    async with served(tmp_path, pace=LIVE, fails=True) as server:
        run_id = await server.launch()
        async with viewing(Place(server.url), run_id, VIEWERS) as crowd:
            await all_live(crowd)
            await server.published(1_000)
            async with failing(server):
                refused, by_rest = await asyncio.gather(
                    launched_by_socket(server), server.launching("another")
                )
                assert (refused["type"], refused["code"]) == ("flow_run_error", "store_unavailable")
                assert by_rest.status_code == 503
                before = await server.log(run_id)
            accepted = await launched_by_socket(server)
            assert accepted["type"] == "flow_run_ack"
            await server.published(before.head + 500)
            await server.pace(Pace(ends=True))
            await all_finished(crowd)
        log = await server.log(run_id)
        ended = await server.status(run_id)
        told = await server.said()
    assert "store_failed" in told
    assert ended in ("completed", "partial")
    assert log.whole
    assert log.begins_with(before)
    assert [viewer.wrong for viewer in crowd] == [[]] * VIEWERS
    assert {(viewer.last, viewer.sum) for viewer in crowd} == {log.end}
    assert {viewer.connects for viewer in crowd} == {1}


async def launched_by_socket(server: Served) -> dict[str, Any]:
    """The answer to a launch."""
    message = {
        "type": "launch", "id": "l", "key": "k", "project_id": await server.project(),
        "command": "/code-review small src",
    }  # fmt: skip
    async with asyncio.timeout(60), raw_peer(server.url) as peer:
        await peer.send(frame(TEXT, json.dumps(message).encode()))
        while True:
            told: dict[str, Any] = json.loads((await peer.until(TEXT)).payload)
            if told.get("id") == "l":
                return told
