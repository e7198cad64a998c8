"""An endpoint that sends one byte a piece keeps nobody else waiting."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from server.agents.relay.body import pieces_of
from tests.fakes.raw_endpoint import STREAM, chunk, raw_serving
from tests.server.harness import plain_http

pytestmark = pytest.mark.timeout(30)

PIECES = 4_000


async def crumbs(writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + chunk(b"x") * PIECES + chunk(b""))
    await writer.drain()


async def turns_of_others(pieces: AsyncIterator[bytes]) -> int:
    """How often another task gets its turn while these are read."""
    turns, reading = 0, True

    async def other() -> None:
        nonlocal turns
        while reading:
            turns += 1
            await asyncio.sleep(0)

    waiting = asyncio.create_task(other())
    assert [piece async for piece in pieces] == [b"x"] * PIECES
    reading = False
    await waiting
    return turns


async def test_the_loop_gets_its_turn_between_two_pieces() -> None:
    async with raw_serving(crumbs) as endpoint, plain_http() as http:
        async with http.stream("POST", endpoint.url, content=b"x") as response:
            assert await turns_of_others(pieces_of(response)) >= PIECES
        # The negative control: the client itself gives none.
        async with http.stream("POST", endpoint.url, content=b"x") as response:
            assert await turns_of_others(response.aiter_raw()) < PIECES / 10
