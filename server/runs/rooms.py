"""What a run needs of the rest of the server, in one place."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from flows.registry import Catalogue
from protocol.states import RunStatus
from server.ports import AgentRunner, Clock, Ids, Store, StoreUnavailable, Trees
from server.runs.models import Models

T = TypeVar("T")
STORE_PAUSE = 1.0
"""Seconds between two tries to record what must be recorded while the disk fails."""


class Clocks(NamedTuple):
    """Seconds that an attempt may stay without a first sign, and without a further one, where the
    settings of its endpoint say nothing else."""

    first_byte: float
    idle: float


class Rooms(NamedTuple):
    store: Store
    agent: AgentRunner
    trees: Trees
    catalogue: Catalogue
    clock: Clock
    ids: Ids
    models: Models
    clocks: Clocks
    gave_up: asyncio.Event
    """Set at the end of a stop: what a failing disk does not take by then is not waited for."""
    ended: Counter[RunStatus]
    """How many runs have ended since the start, and how."""

    async def record(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write to the store, again and again while the disk fails: it recovers by itself."""
        while True:
            try:
                return await write()
            except StoreUnavailable:
                if self.gave_up.is_set():
                    raise
                await self.clock.sleep(STORE_PAUSE)
