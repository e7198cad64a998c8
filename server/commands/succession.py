"""A command that uses another command's server, which ends with that one: then a server of its own
takes the place, at the same address. Clients come back by themselves, and runs go on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Never
from urllib.parse import urlsplit

import click

from server.local import (
    START_SECONDS,
    ServerFile,
    StartFailed,
    is_held,
    own_server,
    running_server,
    still_runs,
)

LOOK_SECONDS = 0.2

Environment = Callable[[], Awaitable[Mapping[str, str]]]
"""Of a server of our own; asked for when one is needed."""


class Succession:
    """Whose server serves DIR, always at one address."""

    def __init__(self, directory: Path, place: ServerFile, environment: Environment) -> None:
        self.place = place
        self.own = False
        """Whether it is this command's by now."""
        self._directory = directory
        self._environment = environment
        self.over = asyncio.create_task(self._go_on(), name="succession")
        """Ends with StartFailed when nobody can go on."""

    async def close(self) -> None:
        self.over.cancel()
        await asyncio.wait([self.over])
        if not self.over.cancelled():
            self.over.exception()  # who needed the server has met it

    async def _go_on(self) -> Never:
        while True:
            if await still_runs(self._directory, self.place):
                await asyncio.sleep(LOOK_SECONDS)
                continue
            found = await _other(self._directory)
            if found is None:
                await self._serve()
            else:
                self._take(found)

    async def _serve(self) -> None:
        click.echo("the server has ended with its command; starting another …", err=True)
        port = urlsplit(self.place.url).port or 0
        async with own_server(self._directory, await self._environment(), port=port) as started:
            self._take(started.place)
            self.own = started.own
            if started.own:
                await asyncio.Event().wait()

    def _take(self, place: ServerFile) -> None:
        if place.url != self.place.url:
            says = f"the server has ended, and another one serves {self._directory}"
            raise StartFailed(says)
        self.place = place


@asynccontextmanager
async def succeeding(
    directory: Path, place: ServerFile, environment: Environment
) -> AsyncIterator[Succession]:
    """While this is open somebody serves DIR where `place` does, as far as that can be had."""
    succession = Succession(directory, place, environment)
    try:
        yield succession
    finally:
        await succession.close()


async def _other(directory: Path) -> ServerFile | None:
    """Who serves DIR once the last one has let go of it: somebody else may be quicker."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while await is_held(directory):
                found = await running_server(directory)
                if found is not None:
                    return found
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        raise StartFailed(f"the server has ended, and something still holds {directory}") from None
    return None
