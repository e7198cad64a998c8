"""Power cuts on a file system of its own: everything that the disk was not made to keep is gone.

The file system is stopped as its own tests stop it, with its journal not flushed, and mounted anew:
what comes back is what a machine finds that has lost its power. That needs root and loop devices.
"""

import asyncio
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.app import Pace
from tests.chaos.servers import Served
from tests.chaos.viewers import Place, Viewer, all_finished, all_live, until, viewing
from tests.server.harness import repository

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems"),
]

CUTS, VIEWERS, FRAMES = 10, 5, 4_000
MIB = 256
EXT4_SHUTDOWN, NOTHING_FLUSHED = 0x8004587D, 2
"""EXT4_IOC_SHUTDOWN and its flag, of the kernel's fs/ext4/ext4.h."""
FULL_SPEED = Pace(target=100_000_000, at_once=50)


class Disk:
    """An ext4 in a file, mounted at `place`."""

    def __init__(self, image: Path, place: Path) -> None:
        self._image = image
        self.place = place

    def make(self) -> None:
        with self._image.open("wb") as file:
            file.truncate(MIB * 1024 * 1024)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self._image)], check=True)
        self.place.mkdir()
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.place)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.place)], check=True)

    def cut(self) -> None:
        """From now on nothing is written any more, and what was not written yet is gone."""
        place = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(place, EXT4_SHUTDOWN, struct.pack("I", NOTHING_FLUSHED))
        finally:
            os.close(place)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "image", tmp_path / "disk")
    made.make()
    yield made
    made.unmount()


async def test_ten_cuts_take_no_state_and_nothing_that_is_not_told(disk: Disk) -> None:
    server = Served(disk.place, pace=FULL_SPEED, boot_id="boot 0")
    await asyncio.to_thread(repository, disk.place / "project")
    try:
        await server.start()
        run_id = await server.launch()
        await asyncio.to_thread(os.sync)
        lost: list[int] = []
        place = Place(server.url)
        async with viewing(place, run_id, VIEWERS, remembers=True) as crowd:
            for number in range(1, CUTS + 1):
                lost.append(await cut(server, disk, place, crowd, run_id, number=number))
            await server.pace(Pace(ends=True))
            await all_finished(crowd)
        log = await server.log(run_id)
    finally:
        await server.stop()
    assert log.whole
    assert {(viewer.last, viewer.sum) for viewer in crowd} == {log.end}
    assert {viewer.gen for viewer in crowd} == {CUTS + 1}
    assert [viewer.wrong for viewer in crowd] == [[]] * VIEWERS
    assert sum(lost) > 0, "the cuts were none"


async def cut(
    server: Served, disk: Disk, place: Place, crowd: list[Viewer], run_id: str, *, number: int
) -> int:
    """In the middle of publishing, after a launch was answered; returns the frames that are gone.
    Every state that anyone has seen is there."""
    await all_live(crowd)
    small = await server.launch("a small one")
    begin = max(viewer.last for viewer in crowd)
    await until(lambda: min(it.last for it in crowd) > begin + FRAMES, seconds=300)
    await place.move(None)
    await asyncio.to_thread(disk.cut)
    await server.kill()
    await asyncio.to_thread(disk.unmount)
    await asyncio.to_thread(disk.mount)
    log = await server.log(run_id)
    seen = max(viewer.last for viewer in crowd)
    assert log.whole
    assert log.head >= max(viewer.state for viewer in crowd)
    told = [len(viewer.truncated) for viewer in crowd]
    await server.start(boot_id=f"boot {number}", pace=FULL_SPEED)
    await place.move(server.url)
    await all_live(crowd)
    assert await server.status(small) in ("queued", "running", "completed")
    for viewer, before in zip(crowd, told, strict=True):
        assert len(viewer.truncated) - before <= 1
    return max(0, seen - log.head)
