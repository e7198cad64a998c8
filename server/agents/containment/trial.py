"""One start of Node in a containment that is being tried, with all that an attempt has around it:
a copy, its files, a relay that takes the self-test's report, and a port and a file to hide."""

import asyncio
import os
import re
import tempfile
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from server.agents.containment.cage import NODE, PLACES, Cage, Found, Launch, confined
from server.agents.containment.limits import Limits
from server.agents.containment.orphans import identity
from server.agents.containment.self_test import SelfTests
from server.agents.containment.spawn import spawn

TRIAL_SECONDS = 10.0
REPORT_BYTES = 4_096
TAKEN = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
NOTHING_SAID = "nothing"


class Trial(NamedTuple):
    proven: bool
    """The program ran, and its report proves every level that was asked for."""
    said: str
    """Its stderr."""


class TrialRoom:
    """Makes trials; `trial_room()` opens one."""

    def __init__(self, cage: Cage) -> None:
        self._cage = cage
        self._report: SelfTests | None = None

    async def attempt(self, found: Found) -> Trial:
        """Start Node under the flags of `found`; at most TRIAL_SECONDS. Raises OSError when
        bubblewrap itself cannot be started."""
        self._report = None
        environment = {"HOME": str(PLACES.home), "PATH": "/usr/bin:/bin", "OPENAI_API_KEY": "none"}
        command = [str(NODE), "-e", "0"]
        code, said = await _ended(confined(command, environment, found=found, cage=self._cage))
        tests = self._report
        proven = code == 0 and tests is not None and tests.prove(found.levels)
        return Trial(proven, said)

    async def take(self, reader: StreamReader, writer: StreamWriter) -> None:
        """The relay's one route: take the report of a self-test."""
        with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(min(int(length[1]) if length else 0, REPORT_BYTES))
            with suppress(msgspec.DecodeError):
                self._report = msgspec.json.decode(body, type=SelfTests)
            writer.write(TAKEN)
            await writer.drain()
        writer.close()


async def _ended(launch: Launch) -> tuple[int | None, str]:
    """Exit code and stderr; None for one that had to be killed."""
    nowhere = asyncio.subprocess.DEVNULL
    process, lifeline = await spawn(
        launch, stdin=nowhere, stdout=nowhere, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TRIAL_SECONDS):
            _, said = await process.communicate()
        return process.returncode, said.decode("utf-8", "replace") or NOTHING_SAID
    except TimeoutError:
        return None, f"not done within {TRIAL_SECONDS:.0f} s"
    finally:
        if lifeline is not None:
            os.close(lifeline)
        if process.returncode is None:
            # What runs inside goes with it: --die-with-parent.
            process.kill()
            await process.wait()


@asynccontextmanager
async def trial_room(node: Path, package: Path) -> AsyncIterator[TrialRoom]:
    async with AsyncExitStack() as stack:
        folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="podium-")
        stack.push_async_callback(asyncio.to_thread, folder.cleanup)
        port = await asyncio.start_server(_hang_up, "127.0.0.1", 0)
        stack.callback(port.close)
        canary = port.sockets[0].getsockname()[1]
        cage = await asyncio.to_thread(_cage, Path(folder.name), node, package, canary=canary)
        room = TrialRoom(cage)
        relay = await asyncio.start_unix_server(room.take, cage.relay, limit=REPORT_BYTES)
        stack.callback(relay.close)
        yield room


async def _hang_up(_reader: StreamReader, writer: StreamWriter) -> None:
    writer.close()


def _cage(folder: Path, node: Path, package: Path, *, canary: int) -> Cage:
    tree = folder / "tree"
    tree.mkdir()
    for place in (tree / "file", folder / "hidden", folder / "settings", folder / "schema"):
        place.write_text("{}")
    server = identity(os.getpid())
    assert server is not None, "examine() has seen to it that this is Linux"
    return Cage(
        node=node,
        package=package,
        tree=tree,
        settings=folder / "settings",
        schema=folder / "schema",
        relay=folder / "relay.sock",
        canary=canary,
        hidden=(folder / "hidden",),
        server=server,
        limits=Limits(),
    )
