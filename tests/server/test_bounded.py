"""HTTP of strangers cannot grow, wait or pile up; what an honest client does is left alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from server import guarded_http, serve
from server.channel.ws_protocol import PaneProtocol
from server.http import bounded
from server.http.bounded import HEAD_BYTES
from tests.server.harness import TOKEN, WAIT_SECONDS, House, house

SOON = 0.3
"""In place of seconds; nothing here asserts that something is done before."""
HELLO = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = (
    b"POST /api/plans HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Authorization: Bearer " + TOKEN.encode() + b"\r\nContent-Length: 10\r\n\r\n"
)
SOCKET = (
    b"GET /api/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.fixture(params=[HttpToolsProtocol, H11Protocol], ids=["httptools", "h11"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick parser is an extra: both must be bounded alike."""
    monkeypatch.setattr(bounded, "AutoHTTPProtocol", request.param)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(bounded, name, SOON)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "bounded", lambda: AutoHTTPProtocol)


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> bytes:
        """The first line of an answer, when all of it is there."""
        async with asyncio.timeout(WAIT_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            (length,) = [
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ]
            await self.reader.readexactly(length)
            return head.partition(b"\r\n")[0]

    async def rest(self) -> bytes:
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.reader.read()


@asynccontextmanager
async def peer(home: House, begins: bytes = b"") -> AsyncIterator[Peer]:
    port = urlsplit(home.url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(begins)
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


@pytest.mark.usefixtures("hurried")
async def test_headers_that_never_end_are_told_so(home: House) -> None:
    async with peer(home, HELLO) as slow:
        assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")
    async with peer(home, HELLO + b"\r\n") as second:
        assert await second.answer() == b"HTTP/1.1 200 OK"
        second.writer.write(HELLO)
        assert (await second.rest()).startswith(b"HTTP/1.1 408 "), "and so for the next"


@pytest.mark.usefixtures("hurried")
async def test_who_says_nothing_is_told_nothing(home: House) -> None:
    async with peer(home) as silent:
        assert await silent.rest() == b""


@pytest.mark.usefixtures("unguarded", "hurried")
async def test_uvicorn_alone_waits(home: House) -> None:
    """It takes up a head where it was left, however long ago; a timer of ours would have run."""
    async with peer(home, HELLO) as slow:
        async with peer(home, HELLO) as later:
            loop = asyncio.get_running_loop()
            over: asyncio.Future[None] = loop.create_future()
            loop.call_later(2 * SOON, over.set_result, None)
            await over
            later.writer.write(b"\r\n")
            assert await later.answer() == b"HTTP/1.1 200 OK"
        slow.writer.write(b"\r\n")
        assert await slow.answer() == b"HTTP/1.1 200 OK"


@pytest.mark.usefixtures("hurried")
async def test_a_body_that_never_ends_holds_no_route(
    home: House, caplog: pytest.LogCaptureFixture
) -> None:
    async with peer(home, POST + b"{") as slow:
        assert (await slow.rest()).startswith(b"HTTP/1.1 408 ")
    while any("run_asgi" in str(task.get_coro()) for task in asyncio.all_tasks()):
        await asyncio.sleep(0)
    assert "Exception in ASGI" not in caplog.text


async def test_a_body_that_is_cut_is_no_failure(
    home: House, caplog: pytest.LogCaptureFixture
) -> None:
    async with peer(home, POST + b"{"):
        while not any("run_asgi" in str(task.get_coro()) for task in asyncio.all_tasks()):
            await asyncio.sleep(0)
    while any("run_asgi" in str(task.get_coro()) for task in asyncio.all_tasks()):
        await asyncio.sleep(0)
    assert "Exception in ASGI" not in caplog.text


async def test_headers_without_end_are_refused(home: House) -> None:
    async with peer(home, HELLO) as large:
        large.writer.write(b"X: yyyyyyyyyyyy\r\n" * (HEAD_BYTES // 12))
        assert (await large.rest()).startswith(b"HTTP/1.1 431 ")


async def test_what_follows_an_answer_is_nothing_to_anybody(home: House) -> None:
    """The answer did not wait for the body: its rest is thrown away, and is no request."""
    refused = POST.replace(TOKEN.encode(), b"wrong")
    async with peer(home, refused) as early:
        assert await early.answer() == b"HTTP/1.1 401 Unauthorized"
        early.writer.write(HELLO + b"\r\n")
        assert await early.rest() == b""


@pytest.mark.usefixtures("hurried")
async def test_an_honest_client_takes_its_time(home: House) -> None:
    """Its headers and its body each come in time, and its run takes longer than both."""
    home.agent.hold()
    run_id = await home.launch()
    async with peer(
        home,
        f"GET /api/runs/{run_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
        + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n",
    ) as reader:  # fmt: skip
        async with peer(home) as silent:
            await silent.rest()  # as long as headers may take
        home.agent.release()
        assert b"flow_run_finished" in await reader.reader.readuntil(b"flow_run_finished")


async def test_idle_connections_are_bounded_and_the_one_that_works_stays(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_http, "MOST", 4)
    home.agent.hold()
    run_id = await home.launch()
    async with home.http.stream("GET", f"/api/runs/{run_id}/events") as working:
        lines = working.aiter_lines()
        await anext(lines)
        idle = [await asyncio.open_connection("127.0.0.1", urlsplit(home.url).port) for _ in "1234"]
        async with asyncio.timeout(WAIT_SECONDS):
            assert await idle[0][0].read() == b"", "the one that has waited longest is cut"
        async with peer(home, HELLO + b"\r\n") as asked:
            assert await asked.answer() == b"HTTP/1.1 200 OK"
        home.agent.release()
        assert any([True async for line in lines if "flow_run_finished" in line])
        for _, writer in idle:
            writer.transport.abort()


# ── handshakes ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"X: y\r\n" * 200, b"HTTP/1.1 431 "),
        (b"X: " + b"y" * 9_000 + b"\r\n", b"HTTP/1.1 431 "),
        (b"Content-Length: 2\r\n", b"HTTP/1.1 400 "),
    ],
)
async def test_a_handshake_that_cannot_be_read_is_answered(
    home: House, lines: bytes, status: bytes
) -> None:
    async with peer(home, SOCKET + lines + b"\r\n" + b"{}") as odd:
        assert (await odd.rest()).startswith(status)


async def test_a_stop_in_the_moment_of_a_refusal_fails_nothing(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse, stopped = PaneProtocol.data_received, list[PaneProtocol]()

    def refuse_and_stop(it: PaneProtocol, data: bytes) -> None:
        refuse(it, data)
        it.shutdown()
        stopped.append(it)

    monkeypatch.setattr(PaneProtocol, "data_received", refuse_and_stop)
    async with peer(home, SOCKET + b"X: y\r\n" * 200 + b"\r\n") as odd:
        assert (await odd.rest()).startswith(b"HTTP/1.1 431 ")
    (it,) = stopped
    it.close_sent = False
    with pytest.raises(AssertionError):
        it.shutdown()  # the negative control


async def test_uvicorn_leaves_its_answer_unsent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(it: PaneProtocol, data: bytes) -> None:
        WebSocketsSansIOProtocol.data_received(it, data)
        if it.conn.handshake_exc is not None:
            it.close_sent = True  # the harness may stop its server before this connection has gone

    monkeypatch.setattr(PaneProtocol, "data_received", leave)
    async with house(tmp_path) as home, peer(home, SOCKET + b"X: y\r\n" * 200 + b"\r\n") as odd:
        await home.http.get("/healthz")
        assert not odd.reader.at_eof()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await odd.reader.read(1)
