"""Short work that is let end although its caller is cancelled."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from server.shielding import to_the_end

Shielding = Callable[[Coroutine[object, object, None]], Coroutine[object, object, None]]


async def shielded_once(work: Coroutine[object, object, None]) -> None:
    """The usual way, which a second cancellation breaks."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


@pytest.mark.parametrize(
    ("shielding", "times", "ended"),
    [
        (to_the_end, 0, True),
        (to_the_end, 1, True),
        (to_the_end, 3, True),
        (shielded_once, 3, False),
    ],
)
async def test_work_ends_however_often_its_caller_is_cancelled(
    shielding: Shielding, times: int, *, ended: bool
) -> None:
    begun, allowed, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await allowed.wait()
        done.set()

    caller = asyncio.create_task(shielding(work()))
    await begun.wait()
    for _ in range(times):
        caller.cancel()
        await asyncio.wait([caller], timeout=0)
    allowed.set()
    await asyncio.wait([caller])
    assert (done.is_set(), caller.cancelled()) == (ended, times > 0)


async def test_a_failure_of_the_work_is_told_before_a_cancellation() -> None:
    begun, allowed = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await allowed.wait()
        raise ValueError("it failed")

    caller = asyncio.create_task(to_the_end(work()))
    await begun.wait()
    caller.cancel()
    allowed.set()
    with pytest.raises(ValueError, match="it failed"):
        await caller
