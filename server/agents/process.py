"""One agent process: started in a session of its own, tailed from a file, killed as a tree."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

import msgspec
from msgspec import Struct

from server.agents.invocation import Places
from server.ports import Clock

CHUNK = 256 * 1024
POLL_SECONDS = 0.02
KILL_SECONDS = 5.0
STDERR_TAIL = 16 * 1024


class Recorded(Struct, frozen=True):
    """Names a process beyond doubt, so that the next start can reap it."""

    pid: int
    started: str
    boot_id: str


class AgentProcess:
    """A running agent. Its stdout goes to a file: on a pipe the CLI loses its tail at exit."""

    def __init__(self, process: asyncio.subprocess.Process, places: Places) -> None:
        self._process = process
        self._places = places
        self._position = 0

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        places: Places,
    ) -> Self:
        """Spawn it; raises OSError when it cannot be started."""
        out, err = await asyncio.to_thread(_open_outputs, places)
        with out, err:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=places.cwd,
                env=dict(environment),
                stdin=asyncio.subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return cls(process, places)

    async def prompt(self, text: str) -> None:
        """Hand the prompt over on stdin and close it. An agent that is gone is no error here."""
        await asyncio.to_thread(_record, self.pid, self._places.process)
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(text.encode("utf-8", "replace"))
            await stdin.drain()
        stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    async def read(self, clock: Clock) -> bytes:
        """The next bytes of stdout; after one poll without news, nothing."""
        data = await asyncio.to_thread(self._read)
        if not data and self.exit_code is None:
            await clock.sleep(POLL_SECONDS)
        return data

    def _read(self) -> bytes:
        with self._places.stdout.open("rb") as file:
            file.seek(self._position)
            data = file.read(CHUNK)
        self._position += len(data)
        return data

    @property
    def read_so_far(self) -> int:
        return self._position

    async def stderr_tail(self) -> str:
        def tail() -> str:
            data = self._places.stderr.read_bytes()[-STDERR_TAIL:]
            return data.decode("utf-8", "replace")

        return await asyncio.to_thread(tail)

    async def kill(self) -> None:
        """Kill the whole tree, and return when its last process is gone (at most 5 s)."""
        members = await asyncio.to_thread(_tree, self.pid)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await self._process.wait()
                await asyncio.to_thread(_wait_gone, [*members, self.pid])


def reap_orphans(data: Path) -> int:
    """Kill what an earlier server left running; returns how many trees. Only processes that are
    beyond doubt the recorded ones are touched."""
    reaped = 0
    for record in sorted((data / "attempts").glob("*/*/*/process.json")):
        try:
            found = msgspec.json.decode(record.read_bytes(), type=Recorded)
        except (OSError, msgspec.DecodeError):
            continue
        if found == _identity(found.pid):
            members = _tree(found.pid)
            for pid in (*members, found.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _wait_gone([*members, found.pid])
            reaped += 1
    return reaped


def _open_outputs(places: Places) -> tuple[IO[bytes], IO[bytes]]:
    return places.stdout.open("wb"), places.stderr.open("wb")


def _record(pid: int, place: Path) -> None:
    identity = _identity(pid)
    if identity is not None:
        place.write_bytes(msgspec.json.encode(identity))


def _identity(pid: int) -> Recorded | None:
    """The process as it is now; None when it is gone, or where there is no /proc."""
    stat = _stat(pid)
    if stat is None or sys.platform != "linux":
        return None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return Recorded(pid, stat[19], boot_id)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command name; None for a dead or zombie process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields


def _tree(root: int) -> list[int]:
    """Every living descendant, also those in sessions of their own."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(entry.name))
        if stat is not None:
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    found: list[int] = []
    queue = [root]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _wait_gone(pids: Sequence[int]) -> None:
    """Until none of the processes lives, at most KILL_SECONDS. They were killed: it is short."""
    deadline = time.monotonic() + KILL_SECONDS
    while any(_stat(pid) is not None for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.005)
