"""A connection to the relay whose other end is no honest agent."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server import guarded_http
from server.agents.relay import connection
from server.agents.relay.connection import HEAD_BYTES
from server.agents.relay.server import Relay
from tests.fakes.model import FakeModel, says, serving
from tests.server.relays import HandClock, question, relaying

pytestmark = pytest.mark.timeout(30)

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: relay\r\n"
MUCH = 64 * 1024 * 1024


@pytest.fixture(params=[HttpToolsProtocol, H11Protocol], autouse=True)
def http(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn's two ways to read HTTP; which of them is there depends on what is installed."""
    monkeypatch.setattr(auto, "AutoHTTPProtocol", request.param)


@asynccontextmanager
async def opened(relay: Relay) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(str(relay.socket))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def sent(relay: Relay, start: bytes, piece: bytes) -> int:
    """How many bytes the relay takes of a request that goes on without end."""
    size = 0
    async with opened(relay) as (_, writer):
        with suppress(ConnectionError):
            writer.write(start)
            while size < MUCH:
                writer.write(piece)
                await writer.drain()
                size += len(piece)
    return size


async def is_cut(reader: StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"POST /", b"a" * 60_000),
        (REQUEST + b"X-A: ", b"a" * 60_000),
        (REQUEST, b"X-A: a\r\n" * 8_000),
    ],
    ids=["address", "header", "headers"],
)
async def test_headers_without_end_are_not_kept(tmp_path: Path, start: bytes, piece: bytes) -> None:
    async with Relay(tmp_path, clock=HandClock()) as relay:
        assert await sent(relay, start, piece) < 32 * HEAD_BYTES, "what the kernel's buffers hold"


async def test_a_request_is_not_sent_before_the_last_answer(tmp_path: Path) -> None:
    """A thousand in one packet would be a thousand requests in memory."""
    many = b"GET /x HTTP/1.1\r\nHost: relay\r\n\r\n" * 1_000
    async with Relay(tmp_path, clock=HandClock()) as relay:
        assert await sent(relay, b"", many) < MUCH


async def test_headers_that_do_not_come_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    async with (
        Relay(tmp_path, clock=HandClock()) as relay,
        opened(relay) as (silent, _),
        opened(relay) as (slow, writer),
    ):
        writer.write(REQUEST)
        assert await is_cut(silent)
        assert await is_cut(slow)


async def test_idle_connections_are_bounded_and_the_one_that_works_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_http, "MOST", 8)
    model = FakeModel(says("a"))
    async with serving(model.app) as url, relaying(tmp_path, url) as here:
        assert (await here.ask()).status_code == 200
        async with AsyncExitStack() as stack, asyncio.timeout(10):
            flood = [await stack.enter_async_context(opened(here.relay)) for _ in range(40)]
            for reader, _ in flood[:32]:
                assert await is_cut(reader)
            # The client's own connection asked once, so those that never did went first.
            assert len(here.relay._connections) <= 8
            assert any(connection._asked for connection in here.relay._connections)


async def test_an_honest_agent_sends_much_and_asks_again(tmp_path: Path) -> None:
    """The negative control of all of the above: bodies are large, connections are used again."""
    model = FakeModel(says("a"), says("b"), says("c"))
    async with serving(model.app) as url, relaying(tmp_path, url) as here:
        for _ in range(3):
            messages = [{"role": "user", "content": "x" * 4_000_000}]
            assert (await here.ask(question(messages=messages))).status_code == 200
        assert len(here.relay._connections) == 1
