"""A chat request on its way to the endpoint, and the answer on its way back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress

import httpx

from server.agents.reasons import FailureReason
from server.agents.relay import upstream
from server.agents.relay.body import pieces_of
from server.agents.relay.endpoint_failures import by_flaw
from server.agents.relay.exchange import Exchange
from server.agents.relay.meter import Flaw, Meter
from server.agents.relay.rules import (
    REQUEST_LIMIT,
    Asked,
    Refusal,
    check,
    must_deliver,
    pause,
)
from server.agents.relay.upstream import Trouble
from server.ports import Clock, ModelEndpoint

HOLD_SECONDS = 10.0
"""How long a request stays open after a failure. Its owner ends the agent meanwhile; an answer
would make the agent try again in silence, for minutes."""
NOT_LET_IN = Refusal(
    403, FailureReason.NO_INTRODUCTION, "the agent asks before it has said what it is"
)
DRAIN_SECONDS, DRAIN_BYTES = 1.0, 64 * 1024
"""For what an endpoint sends after it has said all, so that its connection can be used again."""


class Chat:
    """Serves chat requests."""

    def __init__(
        self,
        *,
        client: Callable[[ModelEndpoint], httpx.AsyncClient],
        clock: Clock,
        chance: Callable[[], float],
    ) -> None:
        self._client = client
        self._clock = clock
        self._chance = chance

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request. When the pass has failed it is held, and left without an answer."""
        found = exchange.found
        body = await exchange.body(REQUEST_LIMIT)
        asked = body if isinstance(body, Refusal) else check(body, found.admission)
        refusal = asked if isinstance(asked, Refusal) else found.budget()
        watching = asyncio.create_task(exchange.watch())
        try:
            if found.failure is None and refusal is not None:
                found.refuse(refusal)
                await exchange.refuse(refusal)
            elif found.failure is None and isinstance(asked, Asked):
                if await found.entered():
                    await self._relay(exchange, asked)
                else:
                    found.refuse(NOT_LET_IN)
            if found.failure is not None and not exchange.flight.answered:
                await self._clock.sleep(HOLD_SECONDS)
        finally:
            watching.cancel()

    async def _relay(self, exchange: Exchange, asked: Asked) -> None:
        found = exchange.found
        found.requests += 1
        try:
            async with (
                aclosing(await self._reach(exchange, asked)) as response,
                aclosing(pieces_of(response)) as pieces,
            ):
                await _Answer(exchange, asked).pass_on(pieces)
                found.asked_at = None
                await _drain(pieces)
        except Trouble as trouble:
            found.fail(trouble.failure)
        finally:
            found.asked_at = None

    async def _reach(self, exchange: Exchange, asked: Asked) -> httpx.Response:
        """The open answer; what can be repeated is, a little. Raises Trouble."""
        found, endpoint = exchange.found, exchange.found.admission.endpoint
        began, repeats = self._clock.monotonic(), 0
        while True:
            found.asked_at = self._clock.monotonic()
            try:
                client = self._client(endpoint)
                return await upstream.ask(client, endpoint, asked.body, clock=self._clock)
            except Trouble as trouble:
                found.asked_at = None
                seconds = pause(
                    repeats=repeats,
                    spent=self._clock.monotonic() - began,
                    retry_after=trouble.failure.retry_after,
                    chance=self._chance(),
                )
                if seconds is None or not trouble.again:
                    raise
                repeats += 1
                found.tell(trouble.failure, seconds=seconds, repeat=repeats)
            await self._clock.sleep(seconds)


class _Answer:
    """One answer on its way back."""

    def __init__(self, exchange: Exchange, asked: Asked) -> None:
        admission = exchange.found.admission
        self._exchange = exchange
        self._asked = asked
        self._meter = Meter(
            answer_bytes=admission.answer_bytes, must_deliver=must_deliver(asked, admission)
        )

    async def pass_on(self, pieces: AsyncIterator[bytes]) -> None:
        """Pass it on until it is whole. Raises Trouble, and then the agent has not got the bytes
        that are wrong."""
        meter = self._meter
        try:
            async for data in pieces:
                self._take(data)
                await self._exchange.pass_on(data)
                if meter.done:
                    break
        except httpx.HTTPError as error:
            if meter.finish_reason is None:
                raise self._trouble(upstream.broken(error, events=meter.events)) from None
        finally:
            # Nothing waits between the agent's last bytes and this: its next request finds the
            # sums right.
            self._exchange.found.count(self._asked, meter)
        if flaw := meter.end():
            raise self._trouble(flaw)
        await self._exchange.finish()

    def _take(self, data: bytes) -> None:
        meter, found = self._meter, self._exchange.found
        events = meter.events
        flaw = meter.feed(data) or found.cut_context(self._asked, meter)
        if meter.events > events:
            found.sign()
        if flaw is not None:
            raise self._trouble(flaw)

    def _trouble(self, flaw: Flaw) -> Trouble:
        return Trouble(by_flaw(flaw, self._exchange.found.admission.endpoint))


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    size = 0
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for data in pieces:
                size += len(data)
                if size > DRAIN_BYTES:
                    return
