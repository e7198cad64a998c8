"""Where two processes run the tests, a test that measures the machine still has it to itself."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GATE, FLOOR = "gate", "floor"


class Turns:
    """The processes of one run of the tests: each runs a test of its own, or one runs a test and
    the others wait. All are given the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._gate = (folder / GATE).open("w")
        self._floor = (folder / FLOOR).open("w")

    @contextmanager
    def taken(self, *, alone: bool) -> Iterator[None]:
        """Wait for the turn. Who waits to be alone keeps the gate, so that nobody goes before it
        for ever."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._floor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._floor, fcntl.LOCK_UN)

    def close(self) -> None:
        self._gate.close()
        self._floor.close()
