"""Reads the log in pages, each in one thread: the event loop sees only what came of it.

A run's log may lie in rows or, once folded, in compressed pages. Whichever it is, a page is what
follows a seq without a hole, and both are seen as of one moment.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from protocol.ids import RunId, Seq
from server.ports import LogEntry, StoreUnavailable
from server.stores import pages

T = TypeVar("T")

READERS = 2
"""So many pages are read at once, however many readers there are: that bounds the memory that
reading takes, and leaves the other readers of the store their connection."""
PAGE_BYTES = 256 * 1024
"""As it leaves, over a WebSocket."""
HEADER_BYTES = 10
"""At most, of one frame over a WebSocket."""
SCAN_FRAMES = 20_000
"""So many frames are looked at for one page of an outline."""
CACHE_KIB = 512
"""Of each connection. A log is read once, from its start to its end."""


class LogReader:
    """A few connections that cannot write, each with a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="log-reader")
        self._own = threading.local()
        self._opened: list[sqlite3.Connection] = []

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in a thread, on the log as of one moment. A caller that is cancelled leaves
        the thread to finish. Raises StoreUnavailable when the disk fails."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._do, work)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store failed: {error}") from error

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        for db in self._opened:
            db.close()

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        db = self._connection()
        db.execute("BEGIN")
        try:
            return work(db)
        finally:
            db.execute("ROLLBACK")

    def _connection(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._own, "db", None)
        if db is None:
            db = sqlite3.connect(
                f"file:{self._path}?mode=ro", uri=True, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
            db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            self._own.db = db
            self._opened.append(db)
        return db


def page(
    db: sqlite3.Connection,
    run_id: RunId,
    *,
    after: Seq,
    outline: bool,
    frames: int | None = None,
    scan: int | None = None,
) -> tuple[list[LogEntry], Seq]:
    """The frames after a seq that this detail shows, and up to where the log was looked at: about
    PAGE_BYTES, but one frame at least if there is one.

    `frames` bounds them, `scan` how many are looked at. The second is `after` itself when the frame
    behind it is not there: the log ends, or it has expired.
    """
    entries: list[LogEntry] = []
    size, through = 0, after
    for seq, shown, data in _frames(db, run_id, after):
        if seq != through + 1:
            break
        if shown or not outline:
            size += len(data) + HEADER_BYTES
            if entries and size > PAGE_BYTES:
                break
            entries.append(LogEntry(run_id, Seq(seq), data, bool(shown)))
        through = Seq(seq)
        if len(entries) == frames or through - after == scan:
            break
    return entries, through


def whole(db: sqlite3.Connection, run_id: RunId) -> Iterator[LogEntry]:
    """Every frame of a run's rows, read while they are taken."""
    for seq, shown, data in _rows(db, run_id, Seq(0)):
        yield LogEntry(run_id, Seq(seq), data, bool(shown))


Frame = tuple[int, bool, bytes]
"""Its seq, whether an outline shows it, and its bytes."""


def _frames(db: sqlite3.Connection, run_id: RunId, after: Seq) -> Iterator[Frame]:
    folded = db.execute(
        "SELECT first, data FROM flow_frame_pages WHERE run_id = ? AND last > ? AND first >="
        " coalesce((SELECT max(first) FROM flow_frame_pages WHERE run_id = ? AND first <= ?), 0)"
        " ORDER BY first",
        (run_id, after, run_id, after + 1),
    )
    for first, data in folded:
        for frame in pages.inflate(first, data):
            if frame[0] > after:
                yield frame
                after = Seq(frame[0])
    yield from _rows(db, run_id, after)


def _rows(db: sqlite3.Connection, run_id: RunId, after: Seq) -> Iterator[Frame]:
    found: Iterator[Frame] = db.execute(
        "SELECT seq, outline, data FROM flow_frames WHERE run_id = ? AND seq > ? ORDER BY seq",
        (run_id, after),
    )
    return found
