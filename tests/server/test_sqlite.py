"""What only the SQLite store promises: its lock, its migrations, crashes and full disks."""

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest

from protocol.ids import RunId
from server.ports import StoreUnavailable
from server.stores import migrate
from server.stores.sqlite import FILE, SqliteStore
from server.world import SystemClock
from tests.contract.test_store import Published, delta, new_run, running, whole


def store_of(place: Path, *, boot_id: str = "b") -> SqliteStore:
    return SqliteStore(place, clock=SystemClock(), committed=Published(), boot_id=boot_id, tick=0)


async def test_a_second_server_is_refused(tmp_path: Path) -> None:
    async with store_of(tmp_path):
        with pytest.raises(migrate.StoreLocked, match=str(os.getpid())):
            async with store_of(tmp_path):
                pass
    async with store_of(tmp_path):
        pass


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    async with store_of(tmp_path):
        pass
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("INSERT INTO schema_version VALUES (9999)")
    db.commit()
    db.close()
    with pytest.raises(migrate.SchemaTooNew, match="9999"):
        async with store_of(tmp_path):
            pass


async def test_an_upgrade_keeps_a_copy_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_of(tmp_path) as store:
        await store.launch(new_run("r"))
    known = await asyncio.to_thread(migrate.migrations)
    newest = known[-1][0]
    later = [*known, (newest + 1, "CREATE TABLE later (x)")]
    monkeypatch.setattr(migrate, "migrations", lambda: later)
    async with store_of(tmp_path) as store:
        assert await store.get(RunId("r")) is not None
    copy = sqlite3.connect(tmp_path / f"{FILE}.before-{newest + 1:04}")
    assert copy.execute("SELECT max(version) FROM schema_version").fetchone() == (newest,)
    copy.close()


@pytest.mark.parametrize(("boot_id", "clean", "gen"), [("b", 0, 1), ("c", 1, 1), ("c", 0, 2)])
async def test_a_lost_tail_begins_a_new_generation(
    tmp_path: Path, boot_id: str, clean: int, gen: int
) -> None:
    async with store_of(tmp_path) as store:
        await running(store, "r")
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("UPDATE meta SET value = ? WHERE name = 'clean_stop'", (str(clean),))
    db.commit()
    db.close()
    async with store_of(tmp_path, boot_id=boot_id) as store:
        log = await store.log(RunId("r"))
    assert log is not None
    assert log.gen == gen
    assert list(log.bases) == [(1, 0), (2, log.head)][:gen]


async def test_a_full_disk_loses_nothing_and_passes(tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        ref = await running(store, "r")
        before = await whole(store, "r")
        db = store._writer._db
        await db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(StoreUnavailable):
            for number in range(50):
                await store.append(ref, [delta(ref, 9_000 * number, "x" * 4_000)])
        kept = await whole(store, "r")
        assert kept[: len(before)] == before
        assert [entry.seq for entry in kept] == list(range(1, len(kept) + 1))
        await db.execute("PRAGMA max_page_count = 1000000")
        await store.append(ref, [delta(ref, 0, "again")])
        assert len(await whole(store, "r")) == len(kept) + 1


WRITER = """
import asyncio, pathlib, sys
from tests.contract.test_store import delta, running
from tests.server.test_sqlite import store_of
async def main():
    async with store_of(pathlib.Path(sys.argv[1])) as store:
        ref = await running(store, "r")
        number = 0
        while True:
            await store.append(ref, [delta(ref, 1000 * number, f"<{number}>")])
            print(number, flush=True)
            number += 1
asyncio.run(main())
"""


async def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    acknowledged = [await process.stdout.readline() for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    rest = await process.stdout.read()
    await process.wait()
    last = int((rest.split() or acknowledged)[-1])
    async with store_of(tmp_path) as store:
        log = await whole(store, "r", page=500)
    text = b"".join(entry.data for entry in log)
    assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
    assert all(f"<{number}>".encode() in text for number in range(last + 1))
