"""The endpoint's slots, shared fairly: first who was served longest ago, then who waits longest."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from protocol.ids import UserId


class Slots:
    """At most `capacity` holders at once. The queue is bounded by the runs that may be live."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = capacity
        self._waiting: list[tuple[int, UserId, asyncio.Future[None]]] = []
        self._age = count()
        self._served: dict[UserId, int] = {}
        self._turns = count(1)

    def resize(self, capacity: int) -> None:
        """Change the capacity; holders keep their slots."""
        self._free += capacity - self.capacity
        self.capacity = capacity
        self._serve()

    def ahead(self) -> int:
        """How many would be served before a newcomer; 0 when a slot is free."""
        return len(self._waiting) + 1 if self._free <= 0 else 0

    @asynccontextmanager
    async def held(self, user: UserId) -> AsyncIterator[None]:
        """Wait for a slot and hold it. Cancelling the wait loses no slot."""
        await self._take(user)
        try:
            yield
        finally:
            self._free += 1
            self._serve()

    async def _take(self, user: UserId) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (next(self._age), user, turn)
        self._waiting.append(entry)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free += 1
            elif entry in self._waiting:
                self._waiting.remove(entry)
            self._serve()
            raise

    def _serve(self) -> None:
        while self._free > 0 and self._waiting:
            entry = min(self._waiting, key=lambda e: (self._served.get(e[1], 0), e[0]))
            self._waiting.remove(entry)
            _, user, turn = entry
            if turn.cancelled():
                continue
            self._free -= 1
            self._served[user] = next(self._turns)
            turn.set_result(None)
