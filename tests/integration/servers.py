"""A real podium in a process of its own, for tests that kill it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from server.client import Client
from server.local import ServerFile, running_server

READY_SECONDS = 60.0


class Server:
    """`podium serve`, on a free port where it is 0; it can be killed, and started again where it
    was."""

    def __init__(
        self,
        data: Path,
        project: Path,
        environment: Mapping[str, str],
        *,
        port: int = 0,
        log: Path | None = None,
    ) -> None:
        """`log` is where its standard error goes, if not to the test's own."""
        self.log = log
        self.data = data
        self.project = project
        self._environment = dict(environment)
        self._port = port
        self.process: asyncio.subprocess.Process | None = None
        self.place: ServerFile | None = None

    async def start(self) -> ServerFile:
        port = urlsplit(self.place.url).port if self.place else self._port
        with ExitStack() as opened:
            log = None if self.log is None else opened.enter_context(self.log.open("ab"))
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "server", "serve", "--port", str(port),
                "--data", str(self.data), "--project", str(self.project),
                env={**os.environ, **self._environment},
                stdout=asyncio.subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        async with asyncio.timeout(READY_SECONDS):
            while True:
                assert self.process.returncode is None, "the server ended before it was ready"
                place = await running_server(self.data)
                if place is not None and place.pid == self.process.pid:
                    self.place = place
                    return place
                await asyncio.sleep(0)

    async def kill(self) -> None:
        """As a crash would: no handler of the server runs."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()

    def client(self) -> Client:
        assert self.place is not None
        return Client(self.place.url, self.place.token)


@asynccontextmanager
async def podium(
    data: Path,
    project: Path,
    environment: Mapping[str, str],
    *,
    port: int = 0,
    log: Path | None = None,
) -> AsyncIterator[Server]:
    server = Server(data, project, environment, port=port, log=log)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
