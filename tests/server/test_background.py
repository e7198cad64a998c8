"""Work beside the requests goes on until the server ends."""

import asyncio

import pytest

from server.background import working
from server.world import SystemClock

WAIT_SECONDS = 20.0


class Impatient(SystemClock):
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


async def test_work_that_fails_is_told_of_and_begins_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, again = 0, asyncio.Event()

    async def fragile() -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            again.set()
            await asyncio.Event().wait()
        raise OSError("no luck")

    async with working(Impatient(), {"fragile": fragile}):
        async with asyncio.timeout(WAIT_SECONDS):
            await again.wait()
    assert begun == 3
    told = [it.getMessage() for it in caplog.records if "background_work_failed" in it.getMessage()]
    assert len(told) == 2
    assert all("fragile" in it for it in told)


async def test_it_ends_with_the_block() -> None:
    ended = asyncio.Event()

    async def steady() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with working(SystemClock(), {"steady": steady}):
        await asyncio.sleep(0)
    assert ended.is_set()
