"""Peers that are gone without a word are found and hold nothing; peers that are there stay, however
busy both sides are."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from server import serve
from server.channel.ws_protocol import PaneProtocol
from server.http.sse import Stream
from server.serve import PING_SECONDS, PONG_SECONDS, listen
from server.settings import Settings
from tests.server.dropping import drop_all
from tests.server.harness import WAIT_SECONDS, House, house
from tests.server.raw_peer import CLOSE, PING, PONG, TEXT, RawPeer, frame, raw_peer
from tests.server.readers import Talker
from tests.server.test_events import open_streams, stalled_reader
from tests.server.test_panes import Watch, connections

FOUND_SECONDS = 25


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PING_SECONDS", 0.2)
    monkeypatch.setattr(serve, "PONG_SECONDS", 1.0)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, agent=Talker(2_500), stall_seconds=600.0) as opened_house:
        yield opened_house


def test_the_usual_times_find_it_soon_enough() -> None:
    assert PING_SECONDS + PONG_SECONDS <= FOUND_SECONDS - 2


async def freed(home: House, protocol: WebSocketsSansIOProtocol, watch: Watch) -> None:
    """No connection, no session and no task of it is left."""
    tasks = list(protocol.tasks)
    await watch.until(lambda: protocol in watch.lost)
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.wait(tasks)
        while home.podium.channel._sessions:
            await asyncio.sleep(0)
    assert protocol not in connections(home)
    assert protocol.transport.get_extra_info("socket").fileno() == -1, "the descriptor is closed"
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    assert not [name for name in names if name.startswith(("Session.", "Channel.endpoint"))]


async def test_who_reads_and_never_answers_is_closed(home: House, watch: Watch) -> None:
    async with raw_peer(home.url) as peer:
        (protocol,) = connections(home)
        await peer.until(PING)
        closed = await peer.until(CLOSE)
        assert closed.code == 1011
        await freed(home, protocol, watch)


async def test_whose_packets_are_dropped_is_freed(home: House, watch: Watch) -> None:
    async with raw_peer(home.url) as peer:
        (protocol,) = connections(home)
        drop_all(peer.socket)
        await freed(home, protocol, watch)


async def test_whose_packets_are_dropped_in_the_middle_is_freed(home: House, watch: Watch) -> None:
    """With more on its way than the kernel takes: a close would wait for it."""
    run_id = await home.launch()
    await home.end_of(run_id)
    async with raw_peer(home.url) as peer:
        protocol = connections(home)[-1]
        message = {"type": "subscribe", "id": "s", "run_id": run_id}
        await peer.send(frame(TEXT, json.dumps(message).encode()))
        await peer.until(TEXT)
        drop_all(peer.socket)
        await freed(home, protocol, watch)


async def test_without_the_question_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch
) -> None:
    """The control: it is still there when one that was asked is long gone."""
    asked = PaneProtocol.start_keepalive
    kept: list[PaneProtocol] = []

    def only_later(it: PaneProtocol) -> None:
        if kept:
            asked(it)
        kept.append(it)

    async with house(tmp_path) as home:
        monkeypatch.setattr(PaneProtocol, "start_keepalive", only_later)
        async with raw_peer(home.url) as first, raw_peer(home.url) as second:
            drop_all(first.socket)
            drop_all(second.socket)
            await watch.until(lambda: kept[1] in watch.lost)
            assert kept[0] not in watch.lost
            assert kept[0] in connections(home)


# --- who is there ---------------------------------------------------------------------------------


async def answer_pings(peer: RawPeer, count: int) -> None:
    for _ in range(count):
        await peer.send(frame(PONG, (await peer.until(PING)).payload))


async def test_who_answers_stays(
    tmp_path: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "PONG_SECONDS", 10.0)
    async with house(tmp_path) as home, raw_peer(home.url) as peer:
        await answer_pings(peer, 5)
        assert not watch.lost


@pytest.mark.parametrize("guarded", [True, False])
async def test_what_comes_before_the_answer_is_a_sign_of_life(
    home: House, watch: Watch, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """A peer that sends much has its pong behind all of that."""
    if not guarded:
        deaf = property(lambda it: False, lambda it, on: None)
        monkeypatch.setattr(PaneProtocol, "heard", deaf, raising=False)
    async with raw_peer(home.url) as peer:
        asked = 0
        while asked < 3:
            if (message := await peer.read()).opcode == CLOSE:
                break
            if message.opcode == PING:
                asked += 1
                await peer.send(frame(PING, b"I am here"))
        assert (asked == 3) is guarded
    await watch.until(lambda: len(watch.lost) == 1)


# --- what has no ping of its own ------------------------------------------------------------------


@asynccontextmanager
async def dead_stream(home: House) -> AsyncIterator[Stream]:
    """The server's end of a stream of a run that goes on; its reader is cut off."""
    home.agent.hold()
    run_id = await home.launch()
    await home.agent.started(2)
    with await stalled_reader(home, run_id) as peer:
        (stream,) = open_streams(home)
        drop_all(peer)
        async with home.socket() as wire:
            ack = await wire.ask(type="cancel", id="c", run_id=run_id, step_id="review.security")
            assert ack["outcome"] == "cancelling"
        yield stream


async def test_a_stream_whose_packets_are_dropped_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernel. The control is a listener that asks nothing of it."""
    monkeypatch.setattr(serve, "MIN_UNHEARD_SECONDS", 0.5)
    async with house(tmp_path / "a", stall_seconds=0.5) as home:
        monkeypatch.setattr(serve, "_find_the_dead", lambda listener, seconds: None)
        async with (
            house(tmp_path / "b", stall_seconds=0.5) as control,
            dead_stream(control) as stays,
            dead_stream(home) as found,
        ):
            async with asyncio.timeout(WAIT_SECONDS):
                await found.ended.wait()
            assert not stays.ended.is_set()


def test_accepted_connections_are_watched_by_the_kernel(tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path), port=0, stall_seconds=12.0)
    with listen(settings) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            with accepted:
                options = {
                    "keepalive": accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    "unheard": accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
                    "idle": accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                }
                theirs = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert options == {"keepalive": 1, "unheard": 12_000, "idle": 15}
    assert theirs == 0
