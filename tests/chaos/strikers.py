"""Clients that break the rules, many at a time, and what the server answers each of them.

A session is one connection: bytes that open it, bytes that follow once it is a WebSocket, and what
comes back until the server refuses it or proves that it still listens.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.server.raw_peer import CLOSE, PING, PONG, TEXT, frame

SESSION_SECONDS = 60.0
"""Far beyond what a busy machine needs: a session that hangs is a fault."""
AGAIN_SECONDS = 0.05
WORD = b"still there?"
STILL_THERE = frame(PING, WORD)
ALIVE, CUT, SILENT, BUSY = "alive", "cut", "silent", "http 429"
LEAVING = ("reset", "order", "answer")
"""How clients end a session: with a reset, in order, or with an answer to the close first."""


class Case(NamedTuple):
    """`expects`: a close code, `http STATUS`, ALIVE (it listens on) or CUT (ended without a word);
    several where each is right."""

    name: str
    opening: bytes
    payload: bytes
    expects: frozenset[str]


class Striker(asyncio.Protocol):
    """One session."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._buffer = bytearray()
        self._open = False
        self._transport: asyncio.Transport
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.answers = 0
        """Text messages that came before the outcome."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._case.opening)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open and not self._opened():
            return
        while not self.outcome.done() and self._frame():
            pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._decide(CUT)

    def leave(self, how: str) -> None:
        if how == "reset":
            self._transport.abort()
            return
        if how == "answer" and self._open:
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
        self.answers += opcode == TEXT
        if opcode == CLOSE:
            self._decide(str(int.from_bytes(payload[:2])))
        elif opcode == PONG and payload == WORD:
            self._decide(ALIVE)
        return True

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


async def strike(port: int, cases: Iterable[Case], *, at_once: int) -> Struck:
    """Run all sessions, so many at a time."""
    struck = Struck(Counter(), [])
    waiting = iter(enumerate(cases))
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(_one_by_one(port, waiting, struck))
    return struck


async def _one_by_one(port: int, waiting: Iterator[tuple[int, Case]], struck: Struck) -> None:
    for number, case in waiting:
        outcome = BUSY
        # The limit of sockets counts those, too, that are about to end.
        while outcome == BUSY and BUSY not in case.expects:
            outcome = await session(port, case, LEAVING[number % len(LEAVING)])
        struck.outcomes[case.name, outcome] += 1
        if outcome not in case.expects:
            struck.wrong.append(f"{case.name}: {outcome}, not {' or '.join(sorted(case.expects))}")


async def session(port: int, case: Case, leaving: str) -> str:
    loop = asyncio.get_running_loop()
    _, striker = await loop.create_connection(lambda: Striker(case), "127.0.0.1", port)
    try:
        async with asyncio.timeout(SESSION_SECONDS):
            outcome = await striker.outcome
    except TimeoutError:
        outcome = SILENT
    striker.leave(leaving)
    if outcome == BUSY:
        await asyncio.sleep(AGAIN_SECONDS)
    return outcome
