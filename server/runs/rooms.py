"""What a run needs of the rest of the server, in one place."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import NamedTuple, TypeVar

import msgspec

from flows.registry import Catalogue
from server.ports import (
    AgentRunner,
    AgentUnavailable,
    Clock,
    Ids,
    ModelEndpoint,
    Probe,
    Store,
    StoreUnavailable,
    Trees,
)
from server.runs.slots import Slots

T = TypeVar("T")
STORE_PAUSE = 1.0
"""Seconds between two tries to record what must be recorded while the disk fails."""


class Clocks(NamedTuple):
    """Seconds that an attempt may stay without a first sign, and without a further one."""

    first_byte: float
    idle: float


class Rooms(NamedTuple):
    store: Store
    agent: AgentRunner
    trees: Trees
    catalogue: Catalogue
    clock: Clock
    ids: Ids
    slots: Slots
    endpoint: ModelEndpoint | None
    clocks: Clocks

    async def probe(self) -> tuple[ModelEndpoint, Probe]:
        """The endpoint and what is known of it (cached), or raise AgentUnavailable."""
        await self.agent.check()
        if self.endpoint is None:
            raise AgentUnavailable(
                "no_endpoint",
                "no model endpoint is configured",
                hint="run `podium setup`, or set OPENAI_BASE_URL and OPENAI_MODEL",
            )
        probe = await self.agent.probe(self.endpoint)
        if probe.slots != self.slots.capacity:
            self.slots.resize(probe.slots)
        # Without a configured model the probe has chosen one.
        return msgspec.structs.replace(self.endpoint, model=probe.public.model), probe

    async def record(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write to the store, again and again while the disk fails: it recovers by itself."""
        while True:
            try:
                return await write()
            except StoreUnavailable:
                await self.clock.sleep(STORE_PAUSE)


async def to_the_end(work: Coroutine[object, object, T]) -> T:
    """Let short work end even when its caller is cancelled meanwhile; then pass that on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
