"""The demo model as a child process that never outlives its parent."""

import asyncio
import os
import re
import signal
import sys
from contextlib import suppress
from typing import Self

from server.demo.app import PACE

START_SECONDS = 15.0
STOP_SECONDS = 2.0

_ANNOUNCED = re.compile(rb"podium demo model: (http://\S+/v1) ")


class DemoError(Exception):
    """The child did not come up; `status` is its exit code, or None when it was only too slow."""

    def __init__(self, status: int | None) -> None:
        super().__init__(
            "the demo model did not start in time"
            if status is None
            else f"the demo model ended at its start with status {status}"
        )
        self.status = status


class DemoProcess:
    """One demo model, in a session of its own; an async context manager.

    The child watches its stdin, whose other end only this process holds: when this process dies,
    by whatever signal, the child ends.
    """

    def __init__(self, *, pace: float = PACE) -> None:
        self._pace = pace
        self._process: asyncio.subprocess.Process | None = None
        self.base_url = ""
        """Ends with `/v1`; empty before the start."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Return when the child listens. Raises `DemoError`; then nothing is left of it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server.demo",
            "--port=0",
            f"--pace={self._pace}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self.base_url = await _announced(self._process)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the child: SIGTERM, and SIGKILL after `STOP_SECONDS`. Does nothing when it ended."""
        if self._process is None:
            return
        _signal_group(self._process, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            _signal_group(self._process, signal.SIGKILL)
            await self._process.wait()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()


async def _announced(process: asyncio.subprocess.Process) -> str:
    """The address that the child prints when it listens."""
    try:
        async with asyncio.timeout(START_SECONDS):
            line = await process.stdout.readline() if process.stdout else b""
            if found := _ANNOUNCED.match(line):
                return found[1].decode()
            raise DemoError(await process.wait())
    except TimeoutError:
        raise DemoError(None) from None


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
