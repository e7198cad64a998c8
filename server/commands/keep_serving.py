"""Where the page of a run is, and a command that goes on as long as somebody serves it."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click

from protocol.ids import RunId
from server.local import ServerFile, still_runs

LOOK_SECONDS = 0.5
"""Between two looks at whether the server is still there."""


def where_to_watch(place: ServerFile, run_id: RunId, *, lasting: bool) -> str:
    """The page. One that ends with this command is for a person who is there: in a log its link
    would be dead."""
    page = page_address(place, run_id)
    if lasting:
        return f"watch it at {page}"
    if sys.stderr.isatty():
        return f"watch it while it runs at {page} (--keep-serving: longer)"
    return "add --keep-serving to look at it in a browser, too"


def page_address(place: ServerFile, run_id: RunId) -> str:
    """The page of a run. The token is in the fragment, which no server ever sees, and only where
    a person reads it: the output of a script ends up in logs."""
    token = f"token={place.token}&" if sys.stderr.isatty() else ""
    return f"{place.page or place.url}/#{token}run={run_id}"


async def keep_serving(directory: Path, place: ServerFile, run_id: RunId, *, own: bool) -> None:
    """Wait for Ctrl-C, or for the end of the server: it may be another command's."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stopped.set)
    for line in _served(directory, page_address(place, run_id), place if not own else None):
        click.echo(line, err=True)
    while not stopped.is_set():
        if not await still_runs(directory, place):
            click.echo("the server has ended", err=True)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), LOOK_SECONDS)


def _served(directory: Path, page: str, theirs: ServerFile | None) -> Iterator[str]:
    if theirs is None:
        yield f"\nserving {page} until Ctrl-C"
    else:
        yield f"\nalready served by pid {theirs.pid}: {page}"
        yield "Ctrl-C ends this command, and that server goes on"
    if not sys.stderr.isatty():
        yield f"to sign in: the token in {directory / 'server.json'}"
