"""Answers of unknown length, under both HTTP implementations of the pinned uvicorn."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.streamed import CutShort, Outlet, Streamed, transport_of
from server.ports import StoreUnavailable
from tests.server.harness import _Server, plain_http

IMPLEMENTATIONS = ["h11", "httptools"]
HEADERS = {"content-type": "text/plain"}

pytestmark = pytest.mark.parametrize("http", IMPLEMENTATIONS)


@asynccontextmanager
async def serving(app: ASGIApp, http: str) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, http=http, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


async def test_the_connection_under_a_request_is_found(http: str) -> None:
    found: list[asyncio.Transport | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        transport = transport_of(receive)
        found.append(transport)
        assert transport is not None
        assert transport.get_write_buffer_size() == 0
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app, http) as url, plain_http() as client:
        assert (await client.get(url)).status_code == 200
    assert len(found) == 1


async def test_what_is_written_comes_and_ends(http: str) -> None:
    released: list[int] = []

    async def produce(outlet: Outlet) -> None:
        for number in range(100):
            await outlet.write(b"%d " % number)

    app = Streamed(produce, headers=HEADERS, stall_seconds=60, release=lambda: released.append(1))
    async with serving(app, http) as url, plain_http() as client:
        answer = await client.get(url)
        assert (await client.head(url)).content == b""
    assert answer.text.split() == [str(number) for number in range(100)]
    assert answer.headers["content-type"] == "text/plain"
    assert released == [1, 1]


@pytest.mark.parametrize("error", [CutShort(), StoreUnavailable("gone")], ids=["cut", "store"])
async def test_a_body_that_cannot_be_finished_has_no_end(http: str, error: Exception) -> None:
    async def produce(outlet: Outlet) -> None:
        await outlet.write(b"half")
        raise error

    app = Streamed(produce, headers=HEADERS, stall_seconds=60)
    async with serving(app, http) as url, plain_http() as client:
        with pytest.raises(httpx.TransportError):
            await client.get(url)


async def test_a_reader_that_leaves_ends_the_work(http: str) -> None:
    released = asyncio.Event()

    async def produce(outlet: Outlet) -> None:
        await outlet.write(b"x")
        await asyncio.Event().wait()

    app = Streamed(produce, headers=HEADERS, stall_seconds=60, release=released.set)
    async with serving(app, http) as url, plain_http() as client:
        async with client.stream("GET", url) as answer:
            assert await anext(answer.aiter_raw()) == b"x"
        async with asyncio.timeout(20):
            await released.wait()


async def test_a_reader_that_stalls_is_freed(http: str) -> None:
    released = asyncio.Event()
    outlets: list[Outlet] = []

    async def produce(outlet: Outlet) -> None:
        outlets.append(outlet)
        while True:
            await outlet.write(b"x" * 65536)

    app = Streamed(produce, headers=HEADERS, stall_seconds=0.1, release=released.set)
    async with serving(app, http) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(20):
            await released.wait()
            rest = b"x"
            while rest:
                last, rest = rest, await reader.read(65536)
            assert not last.endswith(b"0\r\n\r\n"), "there is no end"
        writer.close()
        await writer.wait_closed()
    (outlet,) = outlets
    assert outlet.waiting == 0
