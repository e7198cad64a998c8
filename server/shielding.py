"""Work that goes on to its end although whoever waits for it is cancelled meanwhile."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def settled(work: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until the work is done, whatever comes; the cancellation that came, if one did."""
    cancelled = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def to_the_end(work: Coroutine[object, object, T]) -> T:
    """Let short work end however often its caller is cancelled meanwhile; then pass that on, unless
    the work itself failed."""
    task = asyncio.ensure_future(work)
    cancelled = await settled(task)
    result = task.result()
    if cancelled is not None:
        raise cancelled
    return result
