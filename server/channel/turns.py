"""Messages of one socket about one run: each waits for those that came before it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from protocol.ids import RunId


class Turns:
    """Keeps nothing of a run that nobody asks about."""

    def __init__(self) -> None:
        self._last: dict[RunId, asyncio.Event] = {}
        """Set when the message that came last is done."""

    @asynccontextmanager
    async def of(self, run_id: RunId) -> AsyncIterator[None]:
        """Wait until what came before is done; what comes later waits for this one."""
        before, done = self._last.get(run_id), asyncio.Event()
        self._last[run_id] = done
        try:
            if before is not None:
                await before.wait()
            yield
        finally:
            done.set()
            if self._last.get(run_id) is done:
                del self._last[run_id]
