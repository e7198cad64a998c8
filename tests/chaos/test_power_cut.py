"""A power cut takes the tail of a log: a new generation begins, and whoever has seen more goes back
to where it began. Its numbers are given again to other frames, so a cursor alone would not do."""

import asyncio
from pathlib import Path

import pytest

from server.stores.sqlite import FILE
from tests.chaos.app import Pace
from tests.chaos.servers import Served, served
from tests.chaos.viewers import Place, all_finished, all_live, until, viewing

pytestmark = pytest.mark.timeout(300)

VIEWERS, FRAMES = 10, 3_000
LOST = Pace(target=FRAMES, at_once=100, size=60)
"""As many as stay in the journal."""
GOES_ON = Pace(target=2 * FRAMES, size=90)
"""Past what was seen, with other frames."""


@pytest.mark.parametrize("boot_id", ["another boot", "the first boot"])
async def test_who_has_seen_a_lost_tail_goes_back(tmp_path: Path, boot_id: str) -> None:
    """The control is a server that does not learn of the cut: the same checks fail."""
    async with served(tmp_path, pace=LOST, boot_id="the first boot") as server:
        run_id = await server.launch()
        place = Place(server.url)
        async with viewing(place, run_id, VIEWERS, remembers=True) as crowd:
            await all_live(crowd)
            await until(lambda: all(it.last >= FRAMES for it in crowd), seconds=60)
            seen = [viewer.last for viewer in crowd]
            await place.move(None)
            await server.kill()
            kept = await cut(server, run_id)
            await server.start(boot_id=boot_id, pace=GOES_ON)
            await server.published(2 * FRAMES)
            await place.move(server.url)
            await all_live(crowd)
            await server.pace(Pace(ends=True))
            await all_finished(crowd)
        log = await server.log(run_id)
    assert 0 < kept < min(seen)
    assert log.whole
    right = {(viewer.last, viewer.sum) for viewer in crowd} == {log.end}
    if boot_id == "the first boot":
        assert not right
        assert {viewer.gen for viewer in crowd} == {1}
        return
    assert right
    assert [viewer.wrong for viewer in crowd] == [[]] * VIEWERS
    assert [viewer.truncated for viewer in crowd] == [[kept]] * VIEWERS
    assert {viewer.gen for viewer in crowd} == {2}


async def cut(server: Served, run_id: str) -> int:
    """Take half of the database's journal, in the middle of a page; returns the head that is left.
    What a state row was written with is not in that half."""
    journal = server.data / f"{FILE}-wal"

    def halve() -> None:
        with journal.open("r+b") as file:
            file.truncate(journal.stat().st_size // 2 + 1)

    before = await server.log(run_id)
    await asyncio.to_thread(halve)
    after = await server.log(run_id)
    assert after.whole
    assert before.begins_with(after)
    return after.head
