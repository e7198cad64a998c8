"""Panes on real sockets: ready-made frames and `websocket.send` give the same, and whoever does not
read, or reads badly, costs nobody anything."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import ConnectionClosed, InvalidStatus

from protocol.frames import FlowRunStepTool, ToolStatus
from protocol.ids import Seq
from server import serve
from server.channel import websocket as channel
from server.channel import ws_protocol
from server.channel.outbox import LOOKS, FramedOutbox, Stalled
from server.channel.ws_check import HANDSHAKE, SilentPeer
from server.channel.ws_protocol import PaneProtocol
from server.ports import AgentOrder, AgentResult, Emit
from server.settings import Settings
from tests.fakes.agent import FakeAgent
from tests.server.harness import TOKEN, WAIT_SECONDS, House, Socket, house
from tests.server.raw_peer import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawPeer,
    fragments,
    frame,
    raw_peer,
)

FRAMES, AT_ONCE = 1_500, 50
"""Of each step, in so large portions."""
BYTES = 6_000
HELD = 512 * 1024
"""More than a stalled socket may make the server hold; a log here has three times that."""


class Talker(FakeAgent):
    """Each attempt says FRAMES frames of BYTES once it is told to."""

    def __init__(self, size: int = BYTES) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self._size = size

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        await self.go.wait()
        for first in range(0, FRAMES, AT_ONCE):
            await emit([self._call(order, number) for number in range(first, first + AT_ONCE)])
        return await super().run(order, emit)

    def _call(self, order: AgentOrder, number: int) -> FlowRunStepTool:
        return FlowRunStepTool(
            run_id=order.ref.run_id,
            step_id=order.ref.step_id,
            attempt=order.ref.attempt,
            call_id=str(number),
            name="glob",
            status=ToolStatus.OK,
            summary="a call",
            result="é" * (self._size // 2),
        )


class Watch:
    """Which connections were lost, and when the next one is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost: list[WebSocketsSansIOProtocol] = []
        self._changed = asyncio.Condition()
        theirs = WebSocketsSansIOProtocol.connection_lost
        self._tasks: list[asyncio.Task[None]] = []

        def connection_lost(it: WebSocketsSansIOProtocol, error: Exception | None) -> None:
            theirs(it, error)
            if it.client is not None:  # else one of the check at the start
                self.lost.append(it)
                self._tasks.append(asyncio.ensure_future(self._tell()))

        monkeypatch.setattr(WebSocketsSansIOProtocol, "connection_lost", connection_lost)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(true)


@pytest.fixture(autouse=True)
def uvicorn_speaks(caplog: pytest.LogCaptureFixture) -> None:
    """Other tests make its logger silent, for the whole process."""
    caplog.set_level(logging.INFO, logger="uvicorn.error")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.fixture(params=["frames", "messages"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Over our protocol, and over `websocket.send` of uvicorn's own."""
    if request.param == "messages":
        without_extension(monkeypatch)
    return str(request.param)


def without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    async def misfit() -> str:
        return "the test says so"

    monkeypatch.setattr(serve, "misfit", misfit)


def connections(home: House) -> list[WebSocketsSansIOProtocol]:
    """Those that are WebSockets, oldest first."""
    found = [
        it for it in home.server.server_state.connections
        if isinstance(it, WebSocketsSansIOProtocol)
    ]  # fmt: skip
    return sorted(found, key=lambda it: it.client or ("", 0))


async def stored(home: House, run_id: str) -> list[bytes]:
    """The whole log, as it was committed."""
    log: list[bytes] = []
    while page := await home.podium.channel._store.read(run_id, after=Seq(len(log)), limit=500):  # type: ignore[arg-type] # a RunId
        log += [entry.data for entry in page]
    return log


async def follow(home: House, run_id: str, **how: Any) -> list[bytes]:
    """The frames of a run as they came, until it has ended."""
    async with home.socket() as wire:
        await wire.send(type="subscribe", id="s", run_id=run_id, **how)
        return [data async for data in raw_frames(wire)]


async def raw_frames(wire: Socket) -> AsyncIterator[bytes]:
    while True:
        async with asyncio.timeout(WAIT_SECONDS):
            data = await wire.connection.recv(decode=False)
        if b'"at":' in data and b'"heads":' not in data:
            yield data
            if b'"type":"flow_run_finished"' in data[:40]:
                return


async def stall(home: House, run_id: str, peer: RawPeer) -> WebSocketsSansIOProtocol:
    """Subscribe and read no more; returns the server's end of it."""
    message = {"type": "subscribe", "id": "s", "run_id": run_id}
    await peer.send(frame(TEXT, json.dumps(message).encode()))
    port = peer.socket.getsockname()[1]
    return next(it for it in connections(home) if it.client and it.client[1] == port)


# --- order ----------------------------------------------------------------------------------------


async def test_every_reader_gets_the_log_byte_for_byte(path: str, tmp_path: Path) -> None:
    agent = Talker(size=600)
    async with house(tmp_path, agent=agent) as home:
        run_id = await home.launch()
        readers = [asyncio.create_task(follow(home, run_id)) for _ in range(5)]
        readers.append(asyncio.create_task(follow(home, run_id, detail="outline")))
        await asyncio.wait([asyncio.create_task(follow_first(home, run_id))])
        agent.go.set()
        await agent.started(1)
        readers.insert(0, asyncio.create_task(follow(home, run_id)))
        *full, outline = await asyncio.gather(*readers)
        log = await stored(home, run_id)
    assert len(log) > 2 * FRAMES
    assert [json.loads(it)["seq"] for it in log] == list(range(1, len(log) + 1))
    assert all(got == log for got in full)
    hidden = ("flow_run_step_delta", "flow_run_step_tool")
    assert outline == [it for it in log if json.loads(it)["type"] not in hidden]


async def follow_first(home: House, run_id: str) -> None:
    """Until somebody follows the run for certain."""
    async with home.socket() as wire:
        await wire.send(type="subscribe", id="s", run_id=run_id)
        await wire.until(type="flow_run_caught_up")


async def test_control_frames_keep_their_place(path: str, tmp_path: Path) -> None:
    """Answers come before what they cause, and `caught_up` behind what it speaks of."""
    agent = Talker(size=600)
    async with house(tmp_path, agent=agent) as home:
        run_id = await home.launch()
        async with home.socket() as wire:
            await wire.send(type="subscribe", id="s", run_id=run_id)
            agent.go.set()
            seen, last = [], 0
            for number in range(40):
                await wire.send(type="subscribe", id=f"s{number}", run_id=run_id, tail=3)
                while (got := await wire.receive()).get("id") != f"s{number}":
                    last = check(got, last)
                seen.append(got["type"])
                async with asyncio.timeout(WAIT_SECONDS):
                    start = await wire.receive()
                while start["type"] != "flow_run_subscribed":
                    last = check(start, last)
                    start = await wire.receive()
                last = start["from"]
            assert seen == ["flow_run_ack"] * 40
            while (got := await wire.receive())["type"] != "flow_run_finished":
                last = check(got, last)


def check(got: dict[str, Any], last: int) -> int:
    """The cursor after a frame; asserts that there is no gap."""
    match got["type"]:
        case "flow_run_subscribed":
            return int(got["from"])
        case "flow_run_caught_up":
            assert got["seq"] == last
        case _ if "at" in got and "seq" in got:
            assert got["seq"] == last + 1
            return last + 1
    return last


async def test_a_tick_is_one_write_of_shared_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[tuple[int, bytes]] = []
    write_frame = PaneProtocol.write_frame

    def counted(it: PaneProtocol, data: bytes) -> bool:
        taken = write_frame(it, data)
        if taken:
            writes.append((id(it), data))
        return taken

    monkeypatch.setattr(PaneProtocol, "write_frame", counted)
    agent = Talker(size=100)
    async with house(tmp_path, agent=agent) as home:
        run_id = await home.launch()
        readers = [asyncio.create_task(follow(home, run_id)) for _ in range(5)]
        while sum(b"caught_up" in data for _, data in writes) < 5:
            await asyncio.sleep(0)
        agent.go.set()
        logs = await asyncio.gather(*readers)
    assert all(log == logs[0] for log in logs)
    panes = {pane for pane, _ in writes}
    # Fifty frames are one call of `emit`, one commit, one write.
    assert len(writes) / len(panes) < len(logs[0]) / 25
    pieces: dict[int, set[int]] = {}
    for pane, data in writes:
        pieces.setdefault(id(data), set()).add(pane)
    shared = sum(len(sharing) == 5 for sharing in pieces.values())
    assert shared > 10


# --- who does not read ----------------------------------------------------------------------------


class StuckWire:
    """A socket that takes so many bytes at each look."""

    def __init__(self, takes: Callable[[int], int]) -> None:
        self.left, self.looks, self._takes = 1_000_000, 0, takes

    @property
    def buffered(self) -> int:
        self.looks += 1
        self.left -= self._takes(self.looks)
        return self.left

    def write_frame(self, data: bytes) -> bool:
        return self.left <= 0

    async def drained(self) -> None:
        if self.left > 0:
            await asyncio.Event().wait()


@pytest.mark.parametrize("busy", [0, 3])
async def test_a_socket_is_stalled_when_nothing_is_taken_for_the_whole_time(busy: int) -> None:
    """After its last byte it has ten looks, a tenth of the time each: 10 to 11 s of 10 s."""
    wire = StuckWire(lambda look: 1 if 1 < look <= 1 + busy else 0)
    outbox = FramedOutbox(wire, 0.01)  # type: ignore[arg-type] # as much of it as is used
    outbox._add(b"frame")
    with pytest.raises(Stalled):
        await outbox.flush()
    assert wire.looks == 1 + busy + LOOKS


async def test_a_slow_socket_is_not_stalled() -> None:
    wire = StuckWire(lambda look: 20_000 if look % (LOOKS - 1) == 0 else 0)
    outbox = FramedOutbox(wire, 0.01)  # type: ignore[arg-type] # as much of it as is used
    outbox._add(b"frame")
    await outbox.flush()
    assert wire.looks > 40 * LOOKS


async def test_stalled_sockets_are_freed_and_nobody_waits_for_them(
    tmp_path: Path, watch: Watch
) -> None:
    agent = Talker()
    async with house(tmp_path, agent=agent, stall_seconds=3.0) as home, AsyncExitStack() as peers:
        run_id = await home.launch()
        stalled = []
        for _ in range(3):
            peer = await peers.enter_async_context(raw_peer(home.url))
            stalled.append(await stall(home, run_id, peer))
        reader = asyncio.create_task(follow(home, run_id))
        agent.go.set()
        most = 0
        while not reader.done():
            most = max(most, *(it.transport.get_write_buffer_size() for it in stalled))
            await asyncio.wait([reader], timeout=0.02)
        # The others were served while these were still there.
        log = await stored(home, run_id)
        assert reader.result() == log
        assert sum(map(len, log)) > 3 * HELD
        assert 0 < most <= HELD
        await watch.until(lambda: set(stalled) <= set(watch.lost))
        assert not set(stalled) & set(connections(home))


@pytest.mark.parametrize("guard", ["abort", "extension"])
async def test_without_the_abort_they_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch, guard: str
) -> None:
    """The control: given up, closed and let go by the application, and still there."""
    if guard == "abort":
        monkeypatch.setattr(PaneProtocol, "abort", lambda it: None)
        monkeypatch.setattr(PaneProtocol, "_free_in", lambda it, seconds: None)
    else:
        without_extension(monkeypatch)
    monkeypatch.setattr(channel, "CLOSE_SECONDS", 0.2)
    agent = Talker()
    async with house(tmp_path, agent=agent, stall_seconds=0.3) as home, raw_peer(home.url) as peer:
        run_id = await home.launch()
        stalled = await stall(home, run_id, peer)
        (task,) = stalled.tasks
        agent.go.set()
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.wait([task])
        await follow(home, run_id)
        assert stalled not in watch.lost
        assert stalled.transport.get_write_buffer_size() > 0
        peer.reset()
        await watch.until(lambda: stalled in watch.lost)


async def test_a_reader_that_falls_behind_loses_nothing(path: str, tmp_path: Path) -> None:
    agent = Talker()
    async with (
        house(tmp_path, agent=agent, stall_seconds=600.0) as home,
        raw_peer(home.url) as peer,
    ):
        run_id = await home.launch()
        late = await stall(home, run_id, peer)
        agent.go.set()
        log = await follow(home, run_id)
        assert 0 < late.transport.get_write_buffer_size() <= HELD
        got: list[bytes] = []
        lagging = 0
        while len(got) < len(log):
            payload = (await peer.until(TEXT)).payload
            lagging += b'"flow_run_lagging"' in payload
            if b'"seq":' in payload and b'"at":' in payload:
                got.append(payload)
    assert got == log
    assert lagging == 1


async def test_who_asks_and_never_reads_the_answers_costs_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch
) -> None:
    """Pings are answered by the transport itself, so that no rate limit sees them."""
    flood = frame(PING, b"x" * 125) * 80_000
    async with house(tmp_path) as home:
        async with raw_peer(home.url) as peer:
            protocol = connections(home)[0]
            await peer.send(flood)
            assert protocol.transport.get_write_buffer_size() <= HELD
        monkeypatch.setattr(PaneProtocol, "handle_ping", WebSocketsSansIOProtocol.handle_ping)
        async with raw_peer(home.url) as peer:
            protocol = next(it for it in connections(home) if it is not protocol)
            await peer.send(flood)
            assert protocol.transport.get_write_buffer_size() > 4 * HELD
            peer.reset()
            await watch.until(lambda: len(watch.lost) == 2)


async def test_a_peer_that_says_goodbye_and_does_not_read_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch
) -> None:
    """uvicorn closes its end, which waits for what the peer never takes."""
    free_in = PaneProtocol._free_in
    monkeypatch.setattr(PaneProtocol, "_free_in", lambda it, seconds: free_in(it, seconds / 50))
    monkeypatch.setattr(channel, "CLOSE_SECONDS", 0.2)
    agent = Talker()
    async with (
        house(tmp_path, agent=agent, stall_seconds=600.0) as home,
        raw_peer(home.url) as peer,
    ):
        run_id = await home.launch()
        stalled = await stall(home, run_id, peer)
        agent.go.set()
        await follow(home, run_id)
        assert stalled.transport.get_write_buffer_size() > 0
        await peer.send(frame(CLOSE, (1000).to_bytes(2)))
        await watch.until(lambda: stalled in watch.lost)


# --- who writes badly -----------------------------------------------------------------------------


PINGED = b'{"type":"ping","id":"1"}'


async def answered(peer: RawPeer) -> dict[str, Any]:
    """The next answer to a message."""
    while True:
        got: dict[str, Any] = json.loads((await peer.until(TEXT)).payload)
        if "id" in got:
            return got


@pytest.mark.parametrize("piece", [b"x", b""])
async def test_a_flood_of_fragments_is_refused(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, piece: bytes
) -> None:
    flood = fragments(100_000, piece)
    async with house(tmp_path) as home:
        async with raw_peer(home.url) as peer:
            protocol = connections(home)[0]
            await peer.send(flood)
            assert (await peer.until(CLOSE)).code == 4413
            assert not protocol.frames
            await peer.ended()
        await watch.until(lambda: protocol in watch.lost)
        # The control: without the cap every one of them is kept.
        monkeypatch.setattr(ws_protocol, "too_many", lambda fragments, most: False)
        async with raw_peer(home.url) as peer:
            protocol = next(it for it in connections(home) if it is not protocol)
            await peer.send(flood + frame(PING))
            await peer.until(PONG)
            assert len(protocol.frames) == 100_000


async def test_a_message_may_come_in_64_fragments(path: str, tmp_path: Path) -> None:
    text = PINGED.ljust(64).decode().replace("1", "é").encode()
    pieces = [text[place : place + 1] for place in range(63)] + [text[63:]]
    async with house(tmp_path) as home, raw_peer(home.url) as peer:
        for _ in range(3):
            sent = frame(TEXT, pieces[0], fin=False)
            for piece in pieces[1:-1]:
                # Control frames may stand between fragments, and are none.
                sent += frame(CONTINUATION, piece, fin=False) + frame(PING)
            await peer.send(sent + frame(CONTINUATION, pieces[-1]))
            assert (await answered(peer))["id"] == "é"


async def test_large_messages(path: str, tmp_path: Path) -> None:
    async with house(tmp_path) as home, home.socket() as wire:
        await wire.connection.send("x" * (64 * 1024 + 1))
        assert (await wire.until(type="flow_run_error"))["code"] == "too_large"
        assert (await wire.ask(type="ping", id="1"))["type"] == "flow_run_ack"
        await wire.connection.send("x" * (2 * 1024 * 1024))
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await wire.receive()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


BROKEN = b'{"type":"ping","id":"\xff"}'


@pytest.mark.parametrize(
    "sent",
    [
        frame(TEXT, BROKEN),
        frame(TEXT, BROKEN[:22], fin=False) + frame(CONTINUATION, BROKEN[22:]),
        frame(TEXT, BROKEN) * 1_000 + fragments(10),
        frame(CLOSE, (1000).to_bytes(2) + b"\xff"),
    ],
    ids=["whole", "in fragments", "many", "in a close"],
)
async def test_text_that_is_no_utf8_ends_with_1007_and_no_log(
    tmp_path: Path, watch: Watch, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    async with house(tmp_path) as home, raw_peer(home.url) as peer:
        caplog.clear()
        await peer.send(sent)
        assert (await peer.until(CLOSE)).code == 1007
        await peer.ended()
        await watch.until(lambda: len(watch.lost) == 1)
    assert [it for it in caplog.records if it.levelno >= logging.WARNING] == []


async def test_uvicorns_own_logs_a_traceback_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control, and the reason."""
    without_extension(monkeypatch)
    async with house(tmp_path) as home, raw_peer(home.url) as peer:
        caplog.clear()
        await peer.send(frame(TEXT, BROKEN))
        assert (await peer.until(CLOSE)).code == 1007
    assert any(it.exc_info for it in caplog.records)


async def test_half_a_frame_holds_nobody_up(path: str, tmp_path: Path, watch: Watch) -> None:
    whole = frame(TEXT, PINGED)
    async with house(tmp_path) as home, raw_peer(home.url) as peer, raw_peer(home.url) as gone:
        await peer.send(whole[:9])
        await gone.send(whole[:3])
        assert (await home.end_of(await home.launch()))[-1]["status"] == "completed"
        await peer.send(whole[9:])
        assert (await answered(peer))["type"] == "flow_run_ack"
        gone.reset()
        # The reader of the run, and the one that vanished.
        await watch.until(lambda: len(watch.lost) == 2)
        assert len(connections(home)) == 1


async def test_pings_and_closes_are_answered(path: str, tmp_path: Path, watch: Watch) -> None:
    async with house(tmp_path) as home, raw_peer(home.url) as peer:
        await peer.send(frame(PING, b"are you there"))
        assert (await peer.until(PONG)).payload == b"are you there"
        await peer.send(frame(CLOSE, (1000).to_bytes(2)))
        assert (await peer.until(CLOSE)).code == 1000
        await peer.ended()
        await watch.until(lambda: len(watch.lost) == 1)
        async with home.socket() as wire:
            await wire.receive()
            await home.podium.drain()
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await wire.receive()
        await watch.until(lambda: len(watch.lost) == 2)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


@pytest.mark.parametrize("token", [TOKEN, "wrong"])
async def test_bad_bytes_before_the_socket_is_accepted_are_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, token: str
) -> None:
    """They come right behind the handshake, before the application has run."""
    handshake = HANDSHAKE.replace(b"GET /", b"GET /api/ws").replace(b"Host: x", b"Host: 127.0.0.1")
    signed = handshake[:-2] + f"Authorization: Bearer {token}\r\n\r\n".encode()
    async with house(tmp_path) as home:
        protocol, peer = PaneProtocol(home.server.config, ServerState(), {}), SilentPeer()
        protocol.connection_made(peer)
        protocol.data_received(signed)
        protocol.data_received(fragments(100))
        assert peer.aborted
        await asyncio.wait(protocol.tasks)
        protocol.connection_lost(None)
    assert not peer.written
    assert [it for it in caplog.records if it.levelno >= logging.WARNING] == []


async def test_a_stranger_that_is_refused_leaves_no_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn's own takes a refusal with an answer for an application that forgot to answer."""
    for expected in (0, 1):
        async with house(tmp_path) as home:
            with pytest.raises(InvalidStatus):
                async with home.socket(Authorization="Bearer wrong"):
                    pass
        assert len([it for it in caplog.records if it.levelno >= logging.ERROR]) == expected
        without_extension(monkeypatch)


# --- the start ------------------------------------------------------------------------------------


async def test_the_fallback_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_extension(monkeypatch)
    async with house(tmp_path) as home:
        for _ in range(3):
            assert (await home.end_of(await home.launch()))[-1]["status"] == "completed"
    told = [it.getMessage() for it in caplog.records if "websocket_fallback" in it.getMessage()]
    assert len(told) == 1
    assert "the test says so" in told[0]


@pytest.mark.parametrize("ours", [True, False])
async def test_small_writes_do_not_wait_for_each_other(tmp_path: Path, ours: bool) -> None:
    """asyncio sets TCP_NODELAY only where the listener says that it is TCP. The control is a
    listener as `socket.socket` makes it."""
    settings = Settings(data=str(tmp_path), port=0)
    found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = serve.listen(settings) if ours else socket.create_server(("127.0.0.1", 0))
    async with await asyncio.start_server(connected, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert bool(await found) is ours
        writer.close()
        await writer.wait_closed()
