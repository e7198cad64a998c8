"""What an endpoint answers, piece by piece, with a turn of the loop for everybody else."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx


async def pieces_of(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The body as it comes, nothing inflated, nothing gathered. Raises httpx.HTTPError.

    One read of a socket can hold ten thousand pieces of one byte each, and the client waits for
    nothing between them: without a turn of the loop no other run and no clock would move meanwhile.
    """
    raw = response.aiter_raw()
    assert isinstance(raw, AsyncGenerator)
    async with aclosing(raw):
        async for piece in raw:
            yield piece
            await asyncio.sleep(0)


def is_plain(response: httpx.Response) -> bool:
    """Whether the body is what it stands for. Compressed, which nobody asks for, a few hundred
    bytes can be more than all memory."""
    encoding: str = response.headers.get("content-encoding", "identity")
    return encoding.strip().lower() == "identity"
