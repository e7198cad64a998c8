"""Every close code of the table is really sent in its case, on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from protocol.commands import Command
from protocol.connection import ABUSE_SECONDS, MAX_GARBAGE
from protocol.errors import CLOSE_RULES, CloseCode, ErrorCode
from protocol.frames import FlowRunAck, FlowRunError
from server.channel.delivery import Delivery
from server.channel.session import Session
from server.limits import LimitSettings
from server.ports import StoreUnavailable
from tests.server.clocks import MovedClock
from tests.server.harness import TOKEN, House, Socket, house
from tests.server.raw_peer import CLOSE, TEXT, RawPeer, fragments, frame, raw_peer
from tests.server.readers import Talker
from tests.server.stalling import stuck
from tests.server.test_panes import without_extension


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def home(tmp_path: Path, clock: MovedClock) -> AsyncIterator[House]:
    async with house(tmp_path, clock=clock, agent=Talker(2_500)) as opened_house:
        yield opened_house


async def ending(wire: Socket) -> tuple[int, str]:
    """The code and the reason with which the server closes."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await wire.receive()
    received = closed.value.rcvd
    return (received.code, received.reason) if received else (1006, "connection lost")


async def restart(home: House, clock: MovedClock) -> tuple[int, str]:
    async with home.socket() as wire:
        draining = asyncio.create_task(home.podium.drain())
        ended = await ending(wire)
        await draining
    return ended


async def overloaded(home: House, clock: MovedClock) -> tuple[int, str]:
    """The log cannot be read."""

    def broken(*_: object, **__: object) -> None:
        raise StoreUnavailable("the disk is gone")

    async with home.socket() as wire:
        run_id = await home.launch()
        await home.end_of(run_id)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Delivery, "pump", broken)
            await wire.send(type="subscribe", id="s", run_id=run_id)
            return await ending(wire)


async def garbage(home: House, clock: MovedClock) -> tuple[int, str]:
    async with home.socket() as wire:
        for _ in range(MAX_GARBAGE):
            await wire.connection.send("{")
        return await ending(wire)


async def stranger(home: House, clock: MovedClock) -> tuple[int, str]:
    async with home.socket(Origin=home.url) as wire:
        clock.hello_over.set()
        return await ending(wire)


async def no_subprotocol(home: House, clock: MovedClock) -> tuple[int, str]:
    address = home.url.replace("http", "ws") + "/api/ws"
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with connect(address, additional_headers=bearer, proxy=None) as opened:
        return await ending(Socket(opened, home.frames))


async def huge(home: House, clock: MovedClock) -> tuple[int, str]:
    async with home.socket() as wire:
        for _ in range(MAX_GARBAGE):
            await wire.connection.send("x" * (64 * 1024 + 1))
        return await ending(wire)


async def in_pieces(home: House, clock: MovedClock) -> tuple[int, str]:
    async with raw_peer(home.url) as peer:
        await peer.send(fragments(1_000))
        return await raw_ending(peer)


async def raw_ending(peer: RawPeer) -> tuple[int, str]:
    try:
        closed = await peer.until(CLOSE)
    except ConnectionError:
        return 1006, "connection lost"
    return closed.code, closed.payload[2:].decode()


async def stalled(home: House, clock: MovedClock) -> tuple[int, str]:
    """It is cut off without a word: the word would wait behind what it does not take."""
    run_id = await home.launch()
    await home.end_of(run_id)
    async with raw_peer(home.url) as peer:
        await peer.send(subscription(run_id))
        while not home.podium.channel._traffic.stalled:
            await asyncio.sleep(0)
        return await raw_ending(peer)


def subscription(run_id: str) -> bytes:
    return frame(TEXT, json.dumps({"type": "subscribe", "id": "s", "run_id": run_id}).encode())


Case = Callable[[House, MovedClock], Awaitable[tuple[int, str]]]
CASES: dict[Case, CloseCode] = {
    restart: CloseCode.RESTART,
    overloaded: CloseCode.OVERLOADED,
    garbage: CloseCode.BAD_MESSAGE,
    stranger: CloseCode.UNAUTHENTICATED,
    no_subprotocol: CloseCode.UNSUPPORTED,
    huge: CloseCode.TOO_LARGE,
    in_pieces: CloseCode.TOO_LARGE,
    stalled: CloseCode.ABNORMAL,
}
ELSEWHERE = {
    CloseCode.GOING_AWAY: "said by proxies and browsers",
    CloseCode.FORBIDDEN: "a user that was taken out",
    CloseCode.RATE_LIMITED: "below, with its control",
    CloseCode.STALLED: "below, where uvicorn's own protocol is used",
}


def test_every_code_has_its_case() -> None:
    assert set(CASES.values()) | set(ELSEWHERE) == set(CloseCode)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_the_code_of_a_case(tmp_path: Path, clock: MovedClock, case: Case) -> None:
    seconds = 0.3 if case is stalled else 10.0
    async with house(tmp_path, clock=clock, agent=Talker(2_500), stall_seconds=seconds) as home:
        code = CASES[case]
        assert await case(home, clock) == (code, CLOSE_RULES[code].reason)


@pytest.mark.parametrize("guarded", [True, False])
async def test_ten_seconds_of_abuse(
    home: House, clock: MovedClock, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """The control: without the rule every message is refused, and the socket stays."""
    if not guarded:
        monkeypatch.setattr("protocol.connection.ABUSE_SECONDS", 10**9)
    async with home.socket() as wire:
        sending = asyncio.create_task(abused(wire, clock))
        if guarded:
            assert await ending(wire) == (4429, "too many messages")
        else:
            await wire.until(id="last")
        await sending


async def abused(wire: Socket, clock: MovedClock) -> None:
    """Floods for more than ABUSE_SECONDS of the clock, with no pause in which half of the bucket
    would fill."""
    with suppress(ConnectionClosed):
        for _ in range(10):
            for number in range(200):
                await wire.send(type="ping", id=str(number))
            await (await wire.connection.ping())
            clock.ahead += ABUSE_SECONDS / 8
        await wire.send(type="ping", id="last")


async def test_a_stalled_reader_that_reads_again_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where uvicorn's own protocol is used, which cannot be cut off."""
    without_extension(monkeypatch)
    async with house(tmp_path, agent=Talker(2_500), stall_seconds=0.3) as home:
        run_id = await home.launch()
        await home.end_of(run_id)
        async with raw_peer(home.url) as peer:
            await peer.send(subscription(run_id))
            while not home.podium.channel._traffic.stalled:
                await asyncio.sleep(0)
            assert await raw_ending(peer) == (4408, CLOSE_RULES[CloseCode.STALLED].reason)


@pytest.mark.parametrize("guarded", [True, False])
async def test_who_asks_and_never_reads_waits_for_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """An answer that has not left counts as waiting, so that the large ones are bounded. In the
    control it counts as given when it is made."""
    if not guarded:
        answer = Session._answer

        async def done_at_once(self: Session, command: Command) -> None:
            await answer(self, command)
            self._connection.done(command)

        monkeypatch.setattr(Session, "_answer", done_at_once)
    asked = 60
    async with house(tmp_path, agent=Talker(2_500), stall_seconds=600.0) as home:
        run_id = await home.launch()
        await home.end_of(run_id)
        async with raw_peer(home.url) as peer:
            await peer.send(subscription(run_id))
            session = await stuck(home)
            for number in range(asked):
                message = {"type": "flows", "id": str(number)}
                await peer.send(frame(TEXT, json.dumps(message).encode()))
                while len(session._control) <= number:
                    await asyncio.sleep(0)
            given = sum(isinstance(it, FlowRunAck) for it in session._control)
            refused = [it for it in session._control if isinstance(it, FlowRunError)]
    assert given == (LimitSettings().waiting_messages if guarded else asked)
    assert {it.code for it in refused} == ({ErrorCode.BUSY} if guarded else set())
