"""A client of the socket that comes back: what `client.js` does for pages, for programs in Python.

One task owns the connection. It knows nothing that it could not say again: commands wait until
they are answered, followed runs are cursors, and a new connection asks for both anew. So a lost
connection costs time and nothing else. `docs/write-a-client.md` explains the rules, and
`tests/clients/` plays the server that they are made for.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from protocol.codec import UnknownFrame, decode_frame
from protocol.commands import Command, Cursor, Detail, Launch, Ping, Plan, Rerun
from protocol.errors import CloseCode, ProtocolError
from protocol.frames import (
    FlowRunAck,
    FlowRunDraining,
    FlowRunError,
    FlowRunFinished,
    FlowRunHeartbeat,
    FlowRunHello,
    FlowRunIndex,
    ServerFrame,
)
from protocol.ids import ProjectId, RunId
from server.client.connection import ENDS, STAY_AWAY, Dropped, dial, greet, told
from server.client.cursor import FollowEvent, Following, Phase
from server.client.outgoing import Outgoing
from server.client.reader import AnyReader, Reader, RunList
from server.client.states import Condition, Pace, State, Unreachable, bounded

SILENCE = 2.5
"""So many heartbeats."""


class WireClient:
    """One signed-in user's connection. Use it as an async context manager: it connects at once, and
    comes back until it is left or sent away."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ticket: Callable[[], Awaitable[str]] | None = None,
        trust: ssl.SSLContext | None = None,
        pace: Pace = Pace(),  # noqa: B008  (it cannot be changed)
        on_state: Callable[[Condition], None] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`url` is where podium is, with its path. `ticket` gives a new one for each connection;
        `trust` says which certificates are believed, None: the system's authorities. `on_state`
        hears of every change; `chance` spreads the returns of many clients."""
        self._url = url.rstrip("/")
        self._token = token
        self._ticket = ticket
        self._trust = trust
        self._pace = pace
        self._on_state = on_state
        self._chance = chance
        self.condition = Condition(State.CONNECTING)
        self.hello: FlowRunHello | None = None
        self._tries = 0
        """Since a connection lasted to its first heartbeat: a hello alone is no proof of health."""
        self._refusals = 0
        self._at_least = 0.0
        self._followed: dict[RunId, Reader[FollowEvent]] = {}
        self._index: Reader[FlowRunIndex] | None = None
        self._outgoing = Outgoing(self._readers)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._stay(), name="wire client")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    # --- what an application asks ---------------------------------------------------------------

    async def ask(self, message: Command) -> FlowRunAck:
        """The answer to a message, asked again over every new connection until it is there; its id
        is replaced. The same key makes one run, however often it is asked for.

        Raises ProtocolError when the server refuses, and Unreachable when there is no answer in
        time or nobody to ask.
        """
        self._check_open()
        if isinstance(message, Ping) and self.condition.state is not State.LIVE:
            raise Unreachable("not connected")
        slow = isinstance(message, Launch | Rerun | Plan)
        try:
            async with asyncio.timeout(
                self._pace.launch_seconds if slow else self._pace.command_seconds
            ):
                return await self._outgoing.answer(message)
        except TimeoutError:
            raise self._too_late(message) from None

    async def follow(
        self,
        run_id: RunId,
        *,
        detail: Detail = Detail.FULL,
        after: Cursor | None = None,
        tail: int | None = None,
    ) -> AsyncGenerator[FollowEvent, None]:
        """Every frame of a run to its end, once and in order, whatever happens to connections.

        A slow reader costs no memory: its frames wait in the server's log. Raises ProtocolError
        when the run cannot be seen, and Unreachable when the client is sent away.
        """
        self._check_open()
        if run_id in self._followed:
            raise ValueError(f"run {run_id} is followed already")
        following = Following(run_id, detail=detail, after=after, tail=tail)
        self._followed[run_id] = reader = Reader[FollowEvent](following)
        self._outgoing.wake.set()
        try:
            while True:
                event = await reader.next(self._outgoing.wake.set)
                yield event
                if isinstance(event, FlowRunFinished):
                    return
        finally:
            self._unfollow(run_id, reader)

    async def follow_index(
        self, project_id: ProjectId | None = None
    ) -> AsyncGenerator[FlowRunIndex, None]:
        """The run list: every row, newest first, then those that change. After a lost connection
        all come again: keep them by their id. Raises as `follow` does."""
        self._check_open()
        if self._index is not None:
            raise ValueError("the run list is followed already")
        self._index = reader = Reader[FlowRunIndex](RunList(project_id))
        self._outgoing.wake.set()
        try:
            while True:
                yield await reader.next(self._outgoing.wake.set)
        finally:
            self._index = None
            self._forget(None)

    def _unfollow(self, run_id: RunId, reader: Reader[FollowEvent]) -> None:
        if self._followed.get(run_id) is reader:
            del self._followed[run_id]
            self._forget(run_id)

    def _forget(self, run_id: RunId | None) -> None:
        # A connection that is lost has forgotten by itself.
        if self.condition.state is State.LIVE:
            self._outgoing.forget(run_id)

    def _readers(self) -> list[AnyReader]:
        index: list[AnyReader] = [self._index] if self._index else []
        return [*index, *self._followed.values()]

    def _check_open(self) -> None:
        if self._task is None or self._task.done():
            raise self._gone()

    def _gone(self) -> Unreachable:
        if self.condition.state is State.SIGNED_OUT:
            message, hint = "the server does not take these credentials", "sign in again"
            return Unreachable(message, code="unauthenticated", hint=hint)
        return Unreachable(f"the connection is closed: {self.condition.reason or 'left'}")

    def _too_late(self, message: Command) -> Unreachable:
        hint = None
        if isinstance(message, Launch | Rerun):
            hint = f"it may have been done: ask again with the key {message.key}"
        if self.condition.state is State.LIVE:
            return Unreachable("no answer in time", code="timeout", hint=hint)
        return Unreachable("not connected", hint=hint)

    # --- what is heard --------------------------------------------------------------------------

    def _hear(self, data: str | bytes) -> None:
        """Raises BadMessage: whoever says what cannot be understood may have lost more."""
        if isinstance(data, bytes):
            return  # a binary message says nothing in podium.v1
        frame = decode_frame(data)
        match frame:
            case FlowRunAck():
                self._outgoing.answered(frame)
            case FlowRunError():
                self._outgoing.refused(frame)
            case FlowRunHeartbeat():
                self._beat(frame)
            case FlowRunDraining():
                self._at_least = bounded(frame.retry_after_ms)
            case FlowRunIndex():
                self._list(frame)
            case _:
                self._deliver(frame)
        self._outgoing.wake.set()

    def _beat(self, frame: FlowRunHeartbeat) -> None:
        self._tries = 0
        self._refusals = 0
        for run_id, reader in self._followed.items():
            assert isinstance(reader.subject, Following)
            reader.subject.check(frame.heads.get(run_id))

    def _list(self, frame: FlowRunIndex) -> None:
        reader = self._index
        if reader is not None and self._has_room(reader, None):
            reader.put(frame)

    def _deliver(self, frame: ServerFrame | UnknownFrame) -> None:
        run_id: RunId | None = getattr(frame, "run_id", None)
        reader = self._followed.get(run_id) if run_id is not None else None
        if reader is None or not self._has_room(reader, run_id):
            return
        assert isinstance(reader.subject, Following)
        event = reader.subject.take(frame)
        if event is not None:
            reader.put(event)
        if isinstance(event, FlowRunFinished):
            self._unfollow(event.run_id, reader)

    def _has_room(self, reader: AnyReader, run_id: RunId | None) -> bool:
        """An application that is behind gets no more for now: the rest waits in the log."""
        if reader.full and reader.subject.phase is not Phase.PAUSED:
            reader.subject.phase = Phase.PAUSED
            self._forget(run_id)
        return reader.subject.phase is not Phase.PAUSED

    # --- coming and going -----------------------------------------------------------------------

    async def _stay(self) -> None:
        try:
            while True:
                self._say(Condition(State.CONNECTING))
                ended = await self._connection()
                self._outgoing.lost()
                if ended.code == CloseCode.UNAUTHENTICATED and not self._refusals:
                    self._refusals += 1
                elif ended.code in STAY_AWAY:
                    signed_out = ended.code == CloseCode.UNAUTHENTICATED
                    state = State.SIGNED_OUT if signed_out else State.REFUSED
                    self._say(ended._replace(state=state))
                    return
                else:
                    await self._wait(ended)
        finally:
            if self.condition.state not in (State.SIGNED_OUT, State.REFUSED):
                self._say(Condition(State.CLOSED))
            self._outgoing.end(self._gone())

    async def _wait(self, ended: Condition) -> None:
        """Full jitter, and at least as long as a server that drains asked for."""
        back_off = min(self._pace.max_ms, self._pace.base_ms * 2 ** min(self._tries, 30))
        self._tries += 1
        wait = self._at_least + self._chance() * max(self._at_least, back_off)
        self._at_least = 0.0
        self._say(ended._replace(retry_in_ms=int(wait)))
        await asyncio.sleep(wait / 1000)

    async def _connection(self) -> Condition:
        """One connection, from its first byte to its last; how it ended."""
        socket: ClientConnection | None = None
        try:
            async with asyncio.timeout(self._pace.connect_seconds):
                ticket = await self._ticket() if self._ticket else None
                socket = await dial(
                    self._url,
                    token=self._token,
                    origin=self._ticket is not None,
                    trust=self._trust,
                )
                self.hello = await greet(socket, ticket)
            return await self._serve(socket, self.hello)
        except ENDS as error:
            if isinstance(error, ProtocolError):
                self._at_least = bounded(error.retry_after_ms or 0)
            if socket is not None:  # a close would wait for a peer that may not answer
                socket.transport.abort()
            return told(error)
        finally:
            if socket is not None:
                await socket.close()

    async def _serve(self, socket: ClientConnection, hello: FlowRunHello) -> Condition:
        """Send and hear until the connection ends; raises how."""
        silence = SILENCE * (self._pace.heartbeat_seconds or hello.limits.heartbeat_seconds)
        self._say(Condition(State.LIVE))
        self._outgoing.welcome(hello.limits)
        sending = asyncio.create_task(self._send_all(socket), name="wire client: send")
        try:
            while True:
                self._hear(await _within(silence, socket))
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    async def _send_all(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):  # the reader hears of it too
            while True:
                await self._outgoing.wake.wait()
                self._outgoing.wake.clear()
                while self._outgoing.ready:
                    await asyncio.sleep(self._outgoing.until_allowed())
                    text = self._outgoing.next()
                    if text is not None:
                        await socket.send(text)

    def _say(self, condition: Condition) -> None:
        self.condition = condition
        if self._on_state is not None:
            self._on_state(condition)


async def _within(seconds: float, socket: ClientConnection) -> str | bytes:
    try:
        async with asyncio.timeout(seconds):
            return await socket.recv()
    except TimeoutError:
        raise Dropped("the server has gone silent") from None
