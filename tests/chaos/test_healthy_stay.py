"""However busy the application is, who answers pings stays: the reader of a socket only parses and
hands on. It must not wait for work, or the answers to the pings wait behind the messages."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol.connection import Handle
from server.channel.commands import Commands
from server.channel.websocket import Session
from tests.server.harness import House, house
from tests.server.raw_peer import CLOSE, PING, PONG, TEXT, RawPeer, frame, raw_peer

PEERS, MESSAGES = 20, 8
ASKED = [f"m{number}" for number in range(MESSAGES)]


class Clocks:
    """Of the keepalive, and how many pings the application is busy for: longer than a peer that
    does not answer would have."""

    def __init__(self, interval: float, timeout: float, pings: int) -> None:
        assert interval * pings > 1.2 * (interval + timeout)
        self.interval = interval
        self.timeout = timeout
        self.pings = pings


SHORT = Clocks(0.5, 2.0, 8)
LONG = Clocks(5.0, 10.0, 12)
"""A minute."""


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Every command waits for it."""
    event = asyncio.Event()
    answer = Commands.answer

    async def busy(it: Commands, *given: Any, **named: Any) -> None:
        await event.wait()
        await answer(it, *given, **named)

    monkeypatch.setattr(Commands, "answer", busy)
    return event


@asynccontextmanager
async def asking(place: Path, clocks: Clocks) -> AsyncIterator[tuple[House, list[RawPeer]]]:
    """Peers that have asked for more than the application can answer now."""
    async with house(place) as home, AsyncExitStack() as peers:
        home.server.config.ws_ping_interval = clocks.interval
        home.server.config.ws_ping_timeout = clocks.timeout
        found = [await peers.enter_async_context(raw_peer(home.url)) for _ in range(PEERS)]
        for peer in found:
            for number in ASKED:
                text = json.dumps({"type": "flows", "id": number})
                await peer.send(frame(TEXT, text.encode()))
        yield home, found


@pytest.mark.parametrize(
    "clocks",
    [
        pytest.param(SHORT, id="4 s"),
        pytest.param(LONG, id="60 s", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
    ],
)
async def test_a_busy_application_loses_no_healthy_socket(
    tmp_path: Path, free: asyncio.Event, clocks: Clocks
) -> None:
    async with asking(tmp_path, clocks) as (_, peers):
        ends = await asyncio.gather(*(healthy(peer, clocks.pings) for peer in peers))
        assert ends == [None] * PEERS
        free.set()
        answers = await asyncio.gather(*(answers_of(peer) for peer in peers))
    assert answers == [ASKED] * PEERS


async def test_a_reader_that_waits_for_work_loses_them(
    tmp_path: Path, free: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same peers, and a reader that does each message before the next one."""

    async def waiting(it: Session, group: asyncio.TaskGroup) -> None:
        while (message := await it.websocket.receive())["type"] == "websocket.receive":
            for effect in it._connection.receive(message["text"], it._clock.monotonic()):
                assert isinstance(effect, Handle)
                await it._answer(effect.command)

    monkeypatch.setattr(Session, "_read", waiting)
    clocks = Clocks(0.3, 0.6, 12)
    async with asking(tmp_path, clocks) as (_, peers):
        ends = await asyncio.gather(*(healthy(peer, clocks.pings) for peer in peers))
        free.set()
    assert ends == [1011] * PEERS


async def healthy(peer: RawPeer, pings: int) -> int | None:
    """Answer so many pings, and everything else that a healthy peer answers; the code of a close
    that comes instead."""
    left = pings
    while left:
        message = await peer.read()
        if message.opcode == PING:
            await peer.send(frame(PONG, message.payload))
            left -= 1
        elif message.opcode == CLOSE:
            return message.code
    return None


async def answers_of(peer: RawPeer) -> list[str]:
    """The ids of the answers, in their order."""
    found: list[str] = []
    while len(found) < MESSAGES:
        told = json.loads((await peer.until(TEXT)).payload)
        if "id" in told:
            assert told["type"] == "flow_run_ack"
            found.append(told["id"])
    return found
