"""A long replay on a real socket, to a client that reads slowly: what else it has to hear comes in
between, and so does what other sockets have to hear."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from protocol.ids import RunId
from server.channel.outbox import FramedOutbox
from server.channel.websocket import Session
from tests.contract.test_store import running
from tests.server.harness import WAIT_SECONDS, House, house
from tests.server.raw_peer import TEXT, RawPeer, frame, raw_peer
from tests.server.test_delivery import AT, notices, texts

LONG = RunId("0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a01")
LIVE = RunId("0b5f3c9e-7a1d-4c52-9a51-0d6c2f1e8a02")
LARGE = 200_000
"""Bytes of a frame."""
FRAMES = 60
"""Of the long run: more than the buffers of a connection take."""


async def long_run(home: House) -> None:
    store = home.podium.runner._rooms.store
    ref = await running(store, LONG)
    for number in range(FRAMES):
        await store.append(ref, texts(ref, 1, size=LARGE, first=number))


async def say(peer: RawPeer, **message: object) -> None:
    await peer.send(frame(TEXT, json.dumps(message).encode()))


async def to_exhaustion(it: Session) -> bool:
    """A wrong way: a round of the writer that serves runs for as long as they have anything."""
    while it._control:
        it._outbox.control(it._control.popleft())
    while it._delivery.pump(it._outbox) or it._delivery._page._reading is not None:
        await it._outbox.flush()
        if it._delivery._page._reading is not None:
            await asyncio.wait([it._delivery._page._reading])
    return False


@pytest.mark.parametrize("fair", [True, False])
async def test_a_replay_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fair: bool
) -> None:
    """An answer, a heartbeat and a live run of the same socket. The second is the control."""
    if not fair:
        monkeypatch.setattr(Session, "_round", to_exhaustion)
    async with house(tmp_path, stall_seconds=600.0) as home, raw_peer(home.url) as peer:
        await long_run(home)
        store = home.podium.runner._rooms.store
        live = await running(store, LIVE)
        await say(peer, type="subscribe", id="live", run_id=LIVE)
        while b"flow_run_caught_up" not in (await peer.read()).payload:
            pass
        await say(peer, type="subscribe", id="long", run_id=LONG)
        while len((await peer.read()).payload) < LARGE:
            pass
        (session,) = home.podium.channel._sessions
        session.send(session._delivery.heartbeat(AT))
        await store.append(live, notices(live, 1))
        await say(peer, type="ping", id="ping")
        order = []
        while "caught_up" not in order:
            payload = (await peer.read()).payload
            kind = json.loads(payload)["type"].removeprefix("flow_run_")
            order.append("large" if len(payload) > LARGE else kind)
    assert order.count("large") == FRAMES - 1
    control = [order.index(kind) for kind in ("heartbeat", "ack") if kind in order]
    assert len(control) == (2 if fair else 0)
    # What is on its way already is before them: the buffers of both ends, and a page or two.
    assert max([*control, order.index("step_notice")]) < FRAMES * 2 // 3, order


@pytest.mark.parametrize("yields", [True, False])
async def test_a_socket_that_takes_everything_leaves_the_loop_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, yields: bool
) -> None:
    """Between two writes of one socket the others have a turn. The control is a writer that finds
    more at once and goes on."""
    turn, writes, done = 0, list[tuple[int, int]](), asyncio.Event()
    loop, sleep = asyncio.get_running_loop(), asyncio.sleep

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        if not done.is_set():
            loop.call_soon(next_turn)

    async def flush(it: FramedOutbox) -> None:
        """As if the kernel took it all."""
        writes.append((turn, it._size))
        it._pieces.clear()
        it._size = 0
        if sum(size for _, size in writes) > 15 * LARGE:
            done.set()

    async def no_yield(seconds: float) -> None:
        if seconds:
            await sleep(seconds)

    async with house(tmp_path) as home, home.socket() as wire:
        store = home.podium.runner._rooms.store
        ref = await running(store, LONG)
        await store.append(ref, texts(ref, 15, size=LARGE))  # within the ring
        await wire.ask(type="ping", id="p")
        monkeypatch.setattr(FramedOutbox, "flush", flush)
        if not yields:
            monkeypatch.setattr(asyncio, "sleep", no_yield)
        loop.call_soon(next_turn)
        await wire.send(type="subscribe", id="s", run_id=LONG)
        async with asyncio.timeout(WAIT_SECONDS):
            await done.wait()
        monkeypatch.undo()
    large = Counter(turn for turn, size in writes if size > LARGE)
    assert (max(large.values()) == 1) is yields
