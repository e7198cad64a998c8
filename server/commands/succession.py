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


@asynccontextmanager
async def succeeding(
    directory: Path, place: ServerFile, environment: Environment
) -> AsyncIterator[asyncio.Task[Never]]:
    """While this is open somebody serves DIR where `place` does. The task ends with StartFailed
    when nobody can."""
    task = asyncio.create_task(_succeed(directory, place, environment), name="succession")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _succeed(directory: Path, place: ServerFile, environment: Environment) -> Never:
    url, port = place.url, urlsplit(place.url).port or 0
    while True:
        if await still_runs(directory, place):
            await asyncio.sleep(LOOK_SECONDS)
            continue
        found = await _other(directory)
        if found is None:
            click.echo("the server has ended with its command; starting another …", err=True)
            async with own_server(directory, await environment(), port=port) as started:
                found = started.place
                if started.own:
                    await asyncio.Event().wait()
        if found.url != url:
            raise StartFailed(f"the server has ended, and another one serves {directory}")
        place = found


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
