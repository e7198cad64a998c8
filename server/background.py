"""Work beside the requests, for as long as a server is open."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from server.logs import logger
from server.ports import Clock

log = logger(__name__)

AGAIN_SECONDS = 1.0
"""Until work that has failed begins anew."""

Work = Callable[[], Awaitable[None]]


@asynccontextmanager
async def working(clock: Clock, work: Mapping[str, Work]) -> AsyncIterator[None]:
    """Do all of it until the end of the block. None of it ends by itself: what fails is logged
    under its name and begins anew, so that no watch is lost in silence."""
    tasks = [
        asyncio.create_task(_again_and_again(name, one, clock), name=name)
        for name, one in work.items()
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _again_and_again(name: str, work: Work, clock: Clock) -> None:
    while True:
        try:
            await work()
        except Exception:
            log.exception("background_work_failed", work=name)
        await clock.sleep(AGAIN_SECONDS)
