"""The guards of the channel, each with the way to take it away: what is left is what a server
without it would do. A test takes it from the server in its own process, or tells `app.py` to."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from websockets.server import ServerProtocol

from protocol.frames import FlowRunHeartbeat
from protocol.ids import RunId
from protocol.states import StepStatus
from server import serve
from server.channel import delivery, session
from server.channel.hub import MemoryHub
from server.channel.outbox import FramedOutbox
from server.channel.ws_protocol import CountingServer, PaneProtocol
from server.http import bounded
from server.ports import AttemptRef, LogEntry
from server.stores import sqlite
from server.stores.writer import Tick, Writer

LONG = 600.0
"""Seconds: more than any test takes."""


def publish_first(change: pytest.MonkeyPatch) -> None:
    """What an agent says is shown, and is committed much later."""
    begin, write = Writer.__init__, Tick.write
    shown: list[Callable[[list[LogEntry]], None]] = []

    def remember(it: Writer, *given: Any, **named: Any) -> None:
        begin(it, *given, **named)
        shown.append(it._committed)

    async def write_later(it: Tick) -> list[LogEntry]:
        entries = await write(it)
        if any(not entry.outline for entry in entries):
            shown[-1](entries)
            await asyncio.sleep(LONG)
        return entries

    change.setattr(Writer, "__init__", remember)
    change.setattr(Tick, "write", write_later)


def never_abort(change: pytest.MonkeyPatch) -> None:
    """A stalled socket is closed, as ASGI can: that waits for what the peer does not take."""
    change.setattr(PaneProtocol, "abort", lambda it: None)
    change.setattr(PaneProtocol, "_free_in", lambda it, seconds: None)
    change.setattr(session, "CLOSE_SECONDS", 0.2)


def write_in_turn(change: pytest.MonkeyPatch) -> None:
    """One writer for all sockets: each waits until the one before it has taken what it is sent."""
    flush, turn = FramedOutbox.flush, asyncio.Lock()

    async def flush_in_turn(it: FramedOutbox) -> None:
        async with turn:
            await flush(it)

    change.setattr(FramedOutbox, "flush", flush_in_turn)
    change.setattr(FramedOutbox, "express", lambda it, batch: False)


def never_ping(change: pytest.MonkeyPatch) -> None:
    """Nobody is asked whether they are still there."""
    change.setattr(PaneProtocol, "start_keepalive", lambda it: None)


def take_any_attempt(change: pytest.MonkeyPatch) -> None:
    """Whoever says that it is an attempt of the step may write."""
    fence = sqlite._fence

    async def current(db: Any, ref: AttemptRef) -> StepStatus:
        row = await (
            await db.execute(
                "SELECT attempt FROM flow_steps WHERE run_id = ? AND step_id = ?",
                (ref.run_id, ref.step_id),
            )
        ).fetchone()
        return await fence(db, AttemptRef(ref.run_id, ref.step_id, row[0]))

    change.setattr(sqlite, "_fence", current)


def register_late(change: pytest.MonkeyPatch) -> None:
    """Replay, then join: what is committed in between wakes nobody."""
    listen = MemoryHub.listen

    def later(it: MemoryHub, run_id: RunId, wake: Callable[[RunId], None]) -> None:
        asyncio.get_running_loop().call_later(LONG, listen, it, run_id, wake)

    change.setattr(MemoryHub, "listen", later)


def say_no_heads(change: pytest.MonkeyPatch) -> None:
    """A heartbeat says that the server is there, and no more."""

    def headless(*, heads: object, at: str) -> FlowRunHeartbeat:
        return FlowRunHeartbeat(heads={}, at=at)

    change.setattr(delivery, "FlowRunHeartbeat", headless)


def take_any_fragments(change: pytest.MonkeyPatch) -> None:
    """A message may come in as many parts as a stranger likes."""
    _trust_the_protocol(change)
    change.setattr(CountingServer, "recv_frame", ServerProtocol.recv_frame)


def take_any_text(change: pytest.MonkeyPatch) -> None:
    """uvicorn finds out itself that a text is none, and says so at length."""
    _trust_the_protocol(change)
    change.setattr(PaneProtocol, "_readable", lambda it: True)


def take_any_headers(change: pytest.MonkeyPatch) -> None:
    """Headers are kept for as long as they come."""
    change.setattr(bounded, "HEAD_BYTES", 1_000_000_000)


def _trust_the_protocol(change: pytest.MonkeyPatch) -> None:
    """The check of the start sees that a guard is gone, and would use uvicorn's own protocol."""

    async def fits() -> None:
        return None

    change.setattr(serve, "misfit", fits)


GUARDS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "commit before publish": publish_first,
    "abort": never_abort,
    "a writer for each socket": write_in_turn,
    "pings": never_ping,
    "attempt check": take_any_attempt,
    "register first": register_late,
    "heartbeat heads": say_no_heads,
}
OF_STRANGERS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "fragments": take_any_fragments,
    "UTF-8": take_any_text,
    "headers": take_any_headers,
}
"""Guards against whoever breaks the rules of the protocols."""
