"""One pin of a project at a time, whoever asks."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from server.agents.copies.git import GitError, PrivateGit
from server.agents.copies.last_pin import Last

PATIENCE, PAUSE = 300.0, 0.01
"""Seconds to wait for another pin of the same project, and between two tries."""


class Turn:
    """What is kept of one project. Its lock makes pins of one project wait for one another."""

    def __init__(self) -> None:
        self.users = 0
        self.last: Last | None = None
        self.private: PrivateGit | None = None
        self._lock = threading.RLock()
        self._depth = 0

    @contextmanager
    def alone(self, file: Path) -> Iterator[None]:
        """Keep out other threads, and by a lock on the file other processes; raises GitError when
        that takes too long. It may be entered again by the thread that is in."""
        if not self._lock.acquire(timeout=PATIENCE):
            raise GitError("another pin of this project takes too long")
        self._depth += 1
        try:
            with locked(file) if self._depth == 1 else nullcontext():
                yield
        finally:
            self._depth -= 1
            self._lock.release()


@contextmanager
def locked(file: Path, *, patience: float = PATIENCE) -> Iterator[None]:
    """Hold a lock that other processes see; raises GitError after `patience` seconds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise GitError("another process pins this project") from error
                time.sleep(PAUSE)
        yield
    finally:
        os.close(descriptor)
