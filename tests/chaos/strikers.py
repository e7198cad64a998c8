"""Clients that break the rules, many at a time, and what the server answers each of them.

A session is one connection: bytes that open it, bytes that follow once it is a WebSocket, and what
comes back until the server refuses it or proves that it still listens.
"""

import asyncio
import json
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.server.raw_peer import CLOSE, PING, PONG, TEXT, frame

SESSION_SECONDS = 60.0
"""Far beyond what a busy machine needs: a session that hangs is a fault."""
AGAIN_SECONDS = 0.05
WORD = b"still there?"
STILL_THERE = frame(PING, WORD)
ALIVE, CUT, SILENT, BUSY = "alive", "cut", "silent", "http 429"
ANSWERED = "answered"
RESET, IN_ORDER, ANSWERING = LEAVING = ("reset", "in order", "answering")
"""How clients end a session: with a reset, in order, or with an answer to the close first."""


class Case(NamedTuple):
    """`expects`: a close code, `http STATUS`, ALIVE (it listens on) or CUT (ended without a word);
    several where each is right."""

    name: str
    opening: bytes
    payload: bytes
    expects: frozenset[str]
    ends: bool = False
    """Whether the client has no more to say then: it ends its side."""
    asks: Counter[tuple[str, str]] | None = None
    """The answers that it must get, as (id, code), and ANSWERED when it has them."""


class Striker(asyncio.Protocol):
    """One session."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._buffer = bytearray()
        self._open = False
        self._transport: asyncio.Transport
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asks = None if case.asks is None else case.asks.copy()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._case.opening)
        if self._case.ends and not self._case.payload:
            transport.write_eof()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open and not self._opened():
            return
        while not self.outcome.done() and self._frame():
            pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._decide(CUT)
        self.gone.set_result(None)

    def leave(self, how: str) -> None:
        if how == RESET:
            self._transport.abort()
            return
        if how == ANSWERING and self._open and not self._case.ends:
            self._transport.write(frame(CLOSE, struct.pack("!H", 1000)))
        self._transport.close()

    def _opened(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        status = head[9:12].decode()
        self._buffer = rest
        self._open = status == "101"
        if self._open:
            self._transport.write(self._case.payload)
            if self._case.ends:
                self._transport.write_eof()
        else:
            self._decide(f"http {status}")
        return self._open

    def _frame(self) -> bool:
        """Take a whole frame, if there is one; a server's are short here."""
        buffer = self._buffer
        if len(buffer) < 4:
            return False
        size, begin = (int.from_bytes(buffer[2:4]), 4) if buffer[1] == 126 else (buffer[1], 2)
        if len(buffer) < begin + size:
            return False
        opcode, payload = buffer[0] & 0xF, bytes(buffer[begin : begin + size])
        del buffer[: begin + size]
        if opcode == TEXT and self._asks is not None:
            self._answered(json.loads(payload))
        elif opcode == CLOSE:
            self._decide(str(int.from_bytes(payload[:2])))
        elif opcode == PONG and payload == WORD:
            self._decide(ALIVE)
        return True

    def _answered(self, answer: dict[str, Any]) -> None:
        if answer["type"] not in ("flow_run_error", "flow_run_ack"):
            return
        assert self._asks is not None
        got = (answer["id"], answer.get("code", "ack"))
        if self._asks[got] <= 0:
            self._decide(f"answered {got}: {answer.get('message')}")
        self._asks[got] -= 1
        if self._asks.total() == 0:
            self._decide(ANSWERED)

    def _decide(self, outcome: str) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Struck(NamedTuple):
    """What came of many sessions."""

    outcomes: Counter[tuple[str, str]]
    """By name of the case and outcome."""
    wrong: list[str]

    @property
    def sessions(self) -> int:
        return self.outcomes.total()

    def note(self, case: Case, outcome: str) -> None:
        self.outcomes[case.name, outcome] += 1
        if outcome not in case.expects:
            self.wrong.append(f"{case.name}: {outcome}, not {' or '.join(sorted(case.expects))}")


async def strike(port: int, cases: Iterable[Case], *, at_once: int, whole: bool = False) -> Struck:
    """Run all sessions, so many at a time; `whole` ones send all they have, refused or not."""
    struck = Struck(Counter(), [])
    waiting = iter(enumerate(cases))

    async def one_by_one() -> None:
        for number, case in waiting:
            leaving = IN_ORDER if whole else LEAVING[number % len(LEAVING)]
            struck.note(case, await patiently(port, case, leaving))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one_by_one())
    return struck


async def patiently(port: int, case: Case, leaving: str) -> str:
    """The outcome of a session, once there is room for it: those that are about to end count."""
    while (outcome := await session(port, case, leaving)) == BUSY and BUSY not in case.expects:
        await asyncio.sleep(AGAIN_SECONDS)
    return outcome


async def session(port: int, case: Case, leaving: str) -> str:
    loop = asyncio.get_running_loop()
    _, striker = await loop.create_connection(lambda: Striker(case), "127.0.0.1", port)
    try:
        async with asyncio.timeout(SESSION_SECONDS):
            outcome = await striker.outcome
            striker.leave(leaving)
            await striker.gone
    except TimeoutError:
        striker.leave(RESET)
        return SILENT
    return outcome
