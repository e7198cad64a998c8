"""The server of this machine: finding one that runs, or starting one for a single command."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import httpx
import msgspec
from msgspec import Struct

from server.certificates import authorities
from server.private_file import write_private
from server.stores.migrate import holder

START_SECONDS = 30.0
STOP_SECONDS = 20.0
LOG_TAIL = 2_000


class ServerFile(Struct, frozen=True, kw_only=True):
    """DIR/server.json (0600): where the server of DIR answers, and with which token."""

    url: str
    """For programs of this machine."""
    page: str = ""
    """For browsers: `public_url` where that is set."""
    token: str
    pid: int
    containment: str = ""
    """As its settings say."""
    of_command: bool = False
    """It was started by a command for itself, and ends with that."""

    def write(self, directory: Path) -> None:
        write_private(directory / "server.json", msgspec.json.encode(self))

    @staticmethod
    def remove(directory: Path) -> None:
        with suppress(FileNotFoundError):
            (directory / "server.json").unlink()


class StartFailed(Exception):
    """The server that a command started for itself did not come up; says what it printed."""


def read_server_file(directory: Path) -> ServerFile | None:
    try:
        return msgspec.json.decode((directory / "server.json").read_bytes(), type=ServerFile)
    except (OSError, msgspec.DecodeError):
        return None


async def running_server(directory: Path) -> ServerFile | None:
    """The server of DIR, if it runs and answers."""
    found = await asyncio.to_thread(read_server_file, directory)
    # One that was killed leaves its file behind: who has its port now must not get its token, nor
    # while the next server is still starting.
    if found is None or await asyncio.to_thread(holder, directory) != found.pid:
        return None
    return found if await _answers(found.url) else None


async def still_runs(directory: Path, place: ServerFile) -> bool:
    """Whether that very server still has DIR: it has not ended, and no other is in its place."""
    found = await asyncio.to_thread(read_server_file, directory)
    same = found is not None and found.pid == place.pid
    return same and await asyncio.to_thread(holder, directory) == place.pid


class Started(NamedTuple):
    place: ServerFile
    own: bool
    """False: another command has started one on DIR at the same time, and was first."""


@asynccontextmanager
async def own_server(
    directory: Path, environment: Mapping[str, str], *, port: int = 0
) -> AsyncIterator[Started]:
    """Start `podium serve` on loopback, on a free port for 0, and stop it at the end.

    It logs to DIR/server.log and ends with this process, whatever ends it. Raises StartFailed.
    """
    log_path = directory / "server.log"
    with await asyncio.to_thread(_open_log, log_path) as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server",
            "serve",
            "--port",
            str(port),
            "--data",
            str(directory),
            "--with-parent",
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=dict(environment),
            start_new_session=True,
        )
    try:
        yield await _come_up(process, directory, log_path)
    finally:
        await _stop(process)


def _open_log(path: Path) -> IO[bytes]:
    """The log of the last server alone; two that start at once share it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = path.open("ab")
    if holder(path.parent) is None:
        log.truncate(0)
    return log


async def _come_up(process: asyncio.subprocess.Process, directory: Path, log_path: Path) -> Started:
    try:
        async with asyncio.timeout(START_SECONDS):
            # One that has ended may have met another one, which is still coming up.
            while process.returncode is None or await is_held(directory):
                found = await running_server(directory)
                own = found is not None and found.pid == process.pid
                if found is not None and (own or process.returncode is not None):
                    return Started(found, own)
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    text = await asyncio.to_thread(log_path.read_text, "utf-8", "replace")
    tail = text[-LOG_TAIL:].strip()
    raise StartFailed(f"the server did not start; it said:\n{tail}")


async def is_held(directory: Path) -> bool:
    """Whether some process has DIR, be it that it starts or ends."""
    return await asyncio.to_thread(holder, directory) is not None


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _answers(url: str) -> bool:
    trust = await asyncio.to_thread(authorities, url)
    async with httpx.AsyncClient(timeout=2.0, trust_env=False, verify=trust) as http:
        try:
            return (await http.get(f"{url}/healthz")).is_success
        except httpx.HTTPError:
            return False
