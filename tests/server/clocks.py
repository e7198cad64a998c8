"""Clocks that a test moves."""

import asyncio

from protocol.connection import HELLO_SECONDS
from server.world import SystemClock


class HeldClock(SystemClock):
    """It stands still at `time` until the test sets it."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time


class MovedClock(SystemClock):
    """It runs `ahead` of the real one; the time for `hello` is over when the test says so."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.hello_over = asyncio.Event()

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        if seconds == HELLO_SECONDS:
            await self.hello_over.wait()
        else:
            await super().sleep(seconds)
