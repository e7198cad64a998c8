"""asyncio's Event and Queue for exactly what a pane needs of them, in a fraction of their memory:
neither keeps anything while nobody waits and nothing is there."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Flag:
    """An Event."""

    __slots__ = ("_on", "_waiting")

    def __init__(self, *, on: bool = False) -> None:
        self._on = on
        self._waiting: list[asyncio.Future[None]] | None = None

    def is_set(self) -> bool:
        return self._on

    def set(self) -> None:
        self._on = True
        waiting, self._waiting = self._waiting, None
        for future in waiting or ():
            if not future.done():
                future.set_result(None)

    def clear(self) -> None:
        self._on = False

    async def wait(self) -> None:
        """Return when it is set, or was set meanwhile."""
        if self._on:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(future)
        try:
            await future
        finally:
            if self._waiting is not None and future in self._waiting:
                self._waiting.remove(future)


class Inbox(Generic[T]):
    """A Queue with one reader, unbounded: the protocol stops reading while something is in it."""

    __slots__ = ("_filled", "_items")

    def __init__(self) -> None:
        self._items: deque[T] | None = None
        self._filled = Flag()

    def empty(self) -> bool:
        return self._items is None

    def put_nowait(self, item: T) -> None:
        if self._items is None:
            self._items = deque()
        self._items.append(item)
        self._filled.set()

    async def get(self) -> T:
        while self._items is None:
            self._filled.clear()
            await self._filled.wait()
        item = self._items.popleft()
        if not self._items:
            self._items = None
        return item
