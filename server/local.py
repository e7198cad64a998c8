"""The server of this machine: finding one that runs, or starting one for a single command."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

import httpx
import msgspec
from msgspec import Struct

from server.certificates import authorities
from server.stores.migrate import is_held

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

    def write(self, directory: Path) -> None:
        path = directory / "server.json"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(self))

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
    # One that was killed leaves its file behind: who has its port now must not get its token.
    if found is None or not await asyncio.to_thread(is_held, directory):
        return None
    return found if await _answers(found.url) else None


async def still_runs(directory: Path, place: ServerFile) -> bool:
    """Whether that very server still has DIR: it has not ended, and no other is in its place."""
    found = await asyncio.to_thread(read_server_file, directory)
    same = found is not None and found.pid == place.pid
    return same and await asyncio.to_thread(is_held, directory)


@asynccontextmanager
async def own_server(directory: Path, environment: Mapping[str, str]) -> AsyncIterator[ServerFile]:
    """Start `podium serve` on a free port of loopback, and stop it at the end.

    It logs to DIR/server.log and ends with this process, whatever ends it.
    """
    log_path = directory / "server.log"
    with await asyncio.to_thread(_open_log, log_path) as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server",
            "serve",
            "--port",
            "0",
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
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path.open("wb")


async def _come_up(
    process: asyncio.subprocess.Process, directory: Path, log_path: Path
) -> ServerFile:
    try:
        async with asyncio.timeout(START_SECONDS):
            while process.returncode is None:
                found = await running_server(directory)
                if found is not None and found.pid == process.pid:
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    text = await asyncio.to_thread(log_path.read_text, "utf-8", "replace")
    tail = text[-LOG_TAIL:].strip()
    raise StartFailed(f"the server did not start; it said:\n{tail}")


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
