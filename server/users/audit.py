"""The audit log: who did what, when, from where, and what came of it. DIR/audit.jsonl.

A file of its own, and not a table: it must go on when the store fails, it must not wait for the
log's commits nor slow them, and a line that was written is out of the server's reach for good once
the file is shipped elsewhere. It never has a question, a content or a secret.
"""

import asyncio
import os
from collections import OrderedDict, deque
from collections.abc import Hashable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

from server.logs import logger
from server.ports import Clock
from server.world import rfc3339

log = logger(__name__)

FILE = "audit.jsonl"
OK = "ok"
MAX_BYTES = 16 * 1024 * 1024
"""Then the file becomes `audit.jsonl.1`, and so on."""
KEPT = 4
"""Earlier files."""
MAX_WAITING = 8_192
"""Lines that may wait for the disk; more are counted as lost."""
ONCE_SECONDS = 600.0
MAX_ONCE = 16_384
MAX_REFUSED = 60
"""Refusals of one address, or of one user, that are written down in REFUSED_SECONDS."""
REFUSED_SECONDS = 60.0
STOP_SECONDS = 5.0


class Deed(StrEnum):
    SIGN_IN = "sign_in"
    SIGN_OUT = "sign_out"
    LAUNCH = "launch"
    RERUN = "rerun"
    CANCEL = "cancel"
    FINISH = "finish"
    VIEW = "view"
    EXPORT = "export"
    """A report or a recording was taken."""
    TICKET = "ticket"
    """A ticket was minted on behalf of a user."""
    USER_ADDED = "user_added"
    USER_REVOKED = "user_revoked"
    TOKEN_ADDED = "token_added"  # noqa: S105 - the name of a deed
    TOKEN_REVOKED = "token_revoked"  # noqa: S105
    PROJECTS_CHANGED = "projects_changed"
    PROJECT_ADDED = "project_added"


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. `outcome` is `ok` or the code of the refusal."""

    at: str = ""
    who: str | None = None
    """None: nobody, as yet."""
    what: Deed
    outcome: str
    peer: str = ""
    way: str = ""
    run_id: str = ""
    project_id: str = ""
    user: str = ""
    """Whom it concerns, where that is another."""
    token_id: str = ""


class Lost(Struct, frozen=True, kw_only=True):
    """In place of lines that could not be written, or were too many."""

    at: str
    lost: int


class Audit:
    """`tell` neither waits nor fails. `run` writes, for ever; `stop` writes what is left."""

    def __init__(self, directory: Path, *, clock: Clock) -> None:
        self._path = directory / FILE
        self._clock = clock
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._broken = False
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._once: OrderedDict[Hashable, float] = OrderedDict()
        self._refused: dict[Hashable, int] = {}
        self._window = clock.monotonic()

    def tell(self, entry: Entry, *, once: Hashable = None) -> None:
        """Write a line soon. With `once`, what was told by the same name in the last ten minutes is
        not told again."""
        if once is not None and self._told(once):
            return
        refused = entry.outcome != OK
        full = len(self._lines) >= MAX_WAITING
        if full or (refused and self._too_many(entry.who or entry.peer)):
            self._lost += 1
        else:
            at = rfc3339(self._clock.now())
            self._lines.append(msgspec.json.encode(msgspec.structs.replace(entry, at=at)))
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._write()

    async def stop(self) -> None:
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._write()
        except TimeoutError:
            log.error("audit_failed", lost=len(self._lines), error="the disk takes too long")

    def _told(self, once: Hashable) -> bool:
        now = self._clock.monotonic()
        told = self._once.get(once)
        if told is not None and now - told < ONCE_SECONDS:
            return True
        self._once[once] = now
        self._once.move_to_end(once)
        while len(self._once) > MAX_ONCE:
            self._once.popitem(last=False)
        return False

    def _too_many(self, who: str) -> bool:
        now = self._clock.monotonic()
        if now - self._window >= REFUSED_SECONDS:
            self._window = now
            self._refused.clear()
        if len(self._refused) < MAX_ONCE or who in self._refused:
            self._refused[who] = self._refused.get(who, 0) + 1
        return self._refused.get(who, MAX_REFUSED + 1) > MAX_REFUSED

    async def _write(self) -> None:
        """Write what waits; returns when it is there, or is counted as lost."""
        async with self._writing:
            await self._write_waiting()

    async def _write_waiting(self) -> None:
        lines = list(self._lines)
        self._lines.clear()
        lost, self._lost = self._lost, 0
        if lost:
            lines.append(msgspec.json.encode(Lost(at=rfc3339(self._clock.now()), lost=lost)))
        if not lines:
            return
        try:
            await asyncio.to_thread(_append, self._path, b"\n".join(lines) + b"\n")
        except OSError as error:
            self._lost += len(lines) - bool(lost) + lost
            # Once for each time that it breaks: the disk may be full of our own log.
            if not self._broken:
                log.error("audit_failed", path=str(self._path), error=str(error))
            self._broken = True
        else:
            if self._broken:
                log.warning("audit_goes_on", path=str(self._path))
            self._broken = False


def _append(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        written = os.write(descriptor, data)
        if written < len(data):
            os.ftruncate(descriptor, size)
            raise OSError("the disk is full")
    finally:
        os.close(descriptor)
    if size + len(data) >= MAX_BYTES:
        _rotate(path)


def _rotate(path: Path) -> None:
    for number in range(KEPT, 0, -1):
        earlier = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
        with suppress(FileNotFoundError):
            earlier.replace(path.with_name(f"{path.name}.{number}"))
