"""The checkers see what they are there for: a viewer what is lost, doubled or out of order, a log
another one's frames, and a folded log reads as it did before."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from protocol.states import RunStatus
from server.stores.sqlite import SqliteStore
from server.world import SystemClock
from tests.chaos.servers import Log, stored
from tests.chaos.viewers import Line, Place, Viewer
from tests.contract.test_store import Published, delta, end, running
from tests.server.raw_peer import TEXT


def frames(*seqs: int) -> bytes:
    """As a server sends them, one behind the other."""
    texts = [
        b'{"type":"x","run_id":"r","seq":%d,"at":"","t":"%b"}' % (it, b"y" * it) for it in seqs
    ]
    return b"".join(bytes([0x80 | TEXT, len(text)]) + text for text in texts)


def seen(data: bytes, *, pieces: int) -> Viewer:
    """What a viewer makes of bytes that come in pieces of a size."""
    viewer = Viewer(Place(None), "r")
    line = Line(viewer, "host")
    line._open = True
    for at in range(0, len(data), pieces):
        line.data_received(data[at : at + pieces])
    return viewer


@pytest.mark.parametrize("pieces", [1, 3, 50, 10_000])
def test_a_viewer_finds_every_frame_however_it_comes(pieces: int) -> None:
    viewer = seen(frames(*range(1, 60)), pieces=pieces)
    assert (viewer.last, viewer.wrong) == (59, [])
    assert viewer.sum == seen(frames(*range(1, 60)), pieces=7).sum


@pytest.mark.parametrize(
    ("seqs", "wrong"),
    [
        ([1, 2, 4], ["4 after 2"]),
        ([1, 2, 2, 3], ["2 after 2"]),
        ([1, 3, 2, 4], ["3 after 1", "2 after 3", "4 after 2"]),
        ([2], ["2 after 0"]),
    ],
    ids=["lost", "doubled", "out of order", "the first one lost"],
)
def test_a_viewer_sees_what_is_wrong(seqs: Sequence[int], wrong: list[str]) -> None:
    assert seen(frames(*seqs), pieces=20).wrong == wrong


def test_a_viewer_sees_another_frame_in_its_place() -> None:
    """By the checksum: the numbers are right."""
    other = frames(1, 2, 3).replace(b"yyy", b"yzy")
    assert seen(other, pieces=20).wrong == []
    assert seen(other, pieces=20).sum != seen(frames(1, 2, 3), pieces=20).sum


def test_a_log_knows_a_hole_and_another_log() -> None:
    log = Log(0, [1, 2, 3], [10, 20, 30])
    assert log.whole
    assert log.begins_with(Log(0, [1, 2], [10, 20]))
    assert not log.begins_with(Log(0, [1, 2], [10, 21]))
    assert not Log(0, [1, 2], [10, 20]).begins_with(log), "the tail is gone"
    assert not Log(0, [1, 3], [10, 30]).whole


async def test_a_folded_log_reads_as_before(tmp_path: Path) -> None:
    async with SqliteStore(
        tmp_path, clock=SystemClock(), committed=Published(), boot_id="b", tick=0
    ) as store:
        ref = await running(store, "r")
        for number in range(20):
            await store.append(ref, [delta(ref, 1_000 * number, f"<{number}>")])
        await end(store, "r", RunStatus.COMPLETED)
        before = stored(tmp_path, "r", 0)
        assert await store.fold()
        assert stored(tmp_path, "r", 0) == before
        later = stored(tmp_path, "r", 10)
    assert before.whole
    assert before.head == 23
    assert later.whole
    assert later.seqs == before.seqs[10:]
