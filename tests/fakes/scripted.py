"""Agent processes that run a script of the test's own in place of the CLI, contained or not."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from server.agents.containment import ladder
from server.agents.containment.cage import (
    NODE,
    PACKAGE,
    PLACES,
    Cage,
    Found,
    Launch,
    confined,
    unconfined,
)
from server.agents.containment.limits import Limits
from server.agents.containment.orphans import Recorded, identity
from server.agents.containment.process import AgentProcess
from server.agents.containment.self_test import SelfTests
from server.agents.installation import find_node
from server.agents.invocation import Places
from server.world import SystemClock
from tests.fakes.model import serving_on

TOKEN = "the-token-of-the-attempt"


@cache
def node() -> Path:
    return find_node().program


@cache
def allowed() -> Found:
    """What this host allows; where that is not everything the test is skipped."""
    found = asyncio.run(ladder.examine(node(), Path(__file__).parent))
    if not found.complete:
        pytest.skip(f"no complete containment here: {found.reason}")
    return found


class Relay:
    """Stands at both ends that the relay has: a unix socket and a TCP port."""

    def __init__(self, *routes: BaseRoute, status: int = 204) -> None:
        self.reports: list[SelfTests] = []
        self.tokens: list[str] = []
        self._status = status
        self.app = Starlette(
            routes=[Route("/podium/self-test", self._take, methods=["POST"]), *routes]
        )

    async def _take(self, request: Request) -> Response:
        self.tokens.append(request.headers["authorization"])
        self.reports.append(msgspec.json.decode(await request.body(), type=SelfTests))
        return Response(status_code=self._status)


class Scripted:
    """One attempt's place: files, a copy, a relay, and a script where the CLI would be."""

    def __init__(self, place: Path, relay: Relay, *, canary: int, server: Recorded) -> None:
        self.place = place
        self.relay = relay
        self.canary = canary
        self.server = server
        self.tree = place / "tree"
        self.program = place / "program"
        self.places = Places(place / "data" / "attempts" / "r" / "s" / "1")
        for folder in (self.tree, self.program, self.places.home, self.places.cwd):
            folder.mkdir(parents=True, exist_ok=True)
        (self.tree / "a.py").write_text("A = 1\n")
        self.places.settings.write_text("{}")
        self.places.schema.write_text("{}")
        self.limits = Limits()
        self._started: list[AgentProcess] = []

    def cage(self, limits: Limits | None = None) -> Cage:
        return Cage(
            node=node(),
            package=self.program,
            tree=self.tree,
            settings=self.places.settings,
            schema=self.places.schema,
            relay=self.place / "relay.sock",
            canary=self.canary,
            hidden=(self.places.stdout,),
            server=self.server,
            limits=limits or self.limits,
        )

    def launch(
        self, script: str, *, found: Found | None, limits: Limits | None = None, mark: str = ""
    ) -> Launch:
        """`found` None: uncontained."""
        (self.program / "cli.js").write_text(script)
        home = PLACES.home if found else self.places.home
        environment = {
            "HOME": str(home),
            "PATH": "/usr/bin:/bin",
            "OPENAI_API_KEY": TOKEN,
            "MARK": mark or str(self.place),
        }
        if found is not None:
            command = [str(NODE), str(PACKAGE / "cli.js")]
            return confined(command, environment, found=found, cage=self.cage(limits))
        command = [str(node()), str(self.program / "cli.js")]
        return unconfined(command, environment, limits or self.limits)

    async def start(
        self, script: str, *, found: Found | None, limits: Limits | None = None
    ) -> AgentProcess:
        launch = self.launch(script, found=found, limits=limits)
        return await self.start_launch(launch, limits=limits)

    async def start_launch(self, launch: Launch, *, limits: Limits | None = None) -> AgentProcess:
        process = await AgentProcess.start(
            launch, self.places, limits=limits or self.limits, clock=SystemClock()
        )
        self._started.append(process)
        return process

    async def run(
        self, script: str, *, found: Found | None, limits: Limits | None = None
    ) -> AgentProcess:
        """Start it with an empty prompt, wait until it ended, and kill what is left."""
        process = await self.start(script, found=found, limits=limits)
        await process.prompt("")
        await until(lambda: process.exit_code is not None)
        await process.kill()
        return process

    def said(self) -> str:
        return self.places.stdout.read_text()

    def errors(self) -> str:
        return self.places.stderr.read_text()

    async def close(self) -> None:
        for process in self._started:
            await process.kill()


@asynccontextmanager
async def scripted(place: Path, relay: Relay | None = None) -> AsyncIterator[Scripted]:
    relay = relay or Relay()
    with (
        socket.create_server(("127.0.0.1", 0)) as port,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(place / "relay.sock"))
        unix.listen()
        server = await asyncio.to_thread(identity, os.getpid())
        assert server is not None
        await asyncio.to_thread(node)
        here = Scripted(place, relay, canary=port.getsockname()[1], server=server)
        async with serving_on(relay.app, port, unix):
            try:
                yield here
            finally:
                await here.close()


def marked(mark: str) -> list[int]:
    """Living processes with the mark in their environment, wherever they are."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until it holds: what is waited for lies outside of this process and wakes nobody."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)
