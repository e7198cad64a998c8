"""Opening the database file: the lock, the numbered migrations with their backup, the boot id."""

import fcntl
import os
import sqlite3
import time
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import IO

from server.ports import StoreUnavailable

TERMINAL = "('completed', 'partial', 'failed', 'cancelled')"


class StoreLocked(StoreUnavailable):
    """Another server holds this directory."""


class SchemaTooNew(StoreUnavailable):
    """The database was written by a newer podium."""


LOCK_TRIES, LOCK_PAUSE = 25, 0.02
"""Somebody who only asks whether DIR is held has it for a moment."""


def lock(directory: Path) -> IO[str]:
    """Hold DIR for this process until the returned file is closed; raises StoreLocked. Blocks for
    half a second at most."""
    file = (directory / "lock").open("a+", encoding="ascii")
    try:
        for _ in range(LOCK_TRIES - 1):
            if _taken(file, fcntl.LOCK_EX):
                break
            time.sleep(LOCK_PAUSE)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise StoreLocked(
            f"{directory} is in use by another podium (pid {holder}); "
            "stop it, or choose another --data"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def holder(directory: Path) -> int | None:
    """The process that holds DIR; None where none does, or it is just taking it. A server that was
    killed holds nothing any more."""
    try:
        with (directory / "lock").open(encoding="ascii") as file:
            return None if _taken(file, fcntl.LOCK_SH) else int(file.read())
    except (FileNotFoundError, ValueError):
        return None


def _taken(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def prepare(path: Path, *, boot_id: str) -> None:
    """Bring the schema up to date, and begin a new generation where a tail may have been lost.

    Raises SchemaTooNew, or sqlite3.Error when the file cannot be used.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        _migrate(db, path)
        _begin_boot(db, boot_id)


def record_clean_stop(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("INSERT OR REPLACE INTO meta VALUES ('clean_stop', '1')")


def migrations() -> list[tuple[int, str]]:
    """Every migration as (version, SQL), in order."""
    folder = resources.files("server.stores").joinpath("migrations")
    files = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    return [(int(name[:4]), folder.joinpath(name).read_text("utf-8")) for name in files]


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    (current,) = db.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    known = migrations()
    newest = known[-1][0]
    if current > newest:
        raise SchemaTooNew(
            f"{path} has schema {current}, this podium knows {newest}; install a newer podium"
        )
    pending = [(version, sql) for version, sql in known if version > current]
    if pending and current:
        _back_up(db, path.with_name(f"{path.name}.before-{pending[0][0]:04}"))
    for version, sql in pending:
        # executescript would commit half a migration; one transaction holds all of it.
        db.executescript(f"BEGIN; {sql}; INSERT INTO schema_version VALUES ({version}); COMMIT;")  # noqa: S608


def _back_up(db: sqlite3.Connection, target: Path) -> None:
    with closing(sqlite3.connect(target)) as copy:
        db.backup(copy)


def _begin_boot(db: sqlite3.Connection, boot_id: str) -> None:
    """After a power cut the tail of a log may be gone: unfinished runs get a new generation."""
    stored = dict(db.execute("SELECT name, value FROM meta"))
    clean = stored.get("clean_stop") == "1"
    db.execute("BEGIN IMMEDIATE")
    if "boot_id" in stored and stored["boot_id"] != boot_id and not clean:
        unfinished = f"SELECT id FROM flow_runs WHERE status NOT IN {TERMINAL}"  # noqa: S608
        db.execute(
            f"INSERT INTO flow_generations SELECT id, gen + 1, head FROM flow_runs "  # noqa: S608
            f"WHERE id IN ({unfinished})"
        )
        db.execute(f"UPDATE flow_runs SET gen = gen + 1 WHERE id IN ({unfinished})")  # noqa: S608
    db.execute("INSERT OR REPLACE INTO meta VALUES ('boot_id', ?)", (boot_id,))
    db.execute("INSERT OR REPLACE INTO meta VALUES ('clean_stop', '0')")
    db.execute("COMMIT")
