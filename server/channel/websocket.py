"""The WebSocket: one socket carries every run that its user follows."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import NamedTuple

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from protocol.commands import Command, Hello
from protocol.connection import HELLO_SECONDS, Close, Connection, Handle, Send, error_frame
from protocol.errors import CLOSE_RULES, CloseCode, ErrorCode, ProtocolError
from protocol.frames import (
    ControlFrame,
    FlowRunAck,
    FlowRunDraining,
    FlowRunError,
    FlowRunHello,
    Limits,
)
from protocol.ids import UserId
from server.channel.commands import Commands
from server.channel.delivery import Delivery
from server.channel.outbox import Stalled, outbox_of
from server.channel.traffic import Traffic
from server.channel.waiting import Flag
from server.http.answers import refusal
from server.http.sign_in import Refused, SignIn
from server.http.tickets import Tickets
from server.limits import HEARTBEAT_SECONDS, LimitSettings, most_sockets, wire_limits
from server.logs import logger
from server.ports import Batch, Clock, Hub, Store, StoreUnavailable
from server.stopping import Gate, return_times
from server.users.deeds import tell_command, tell_sign_in
from server.users.directory import Guest
from server.world import rfc3339

log = logger(__name__)

SUBPROTOCOL = "podium.v1"
CLOSE_SECONDS = 10.0
"""So long a close may wait for a peer that reads slowly; and before it, so long what is queued."""
MAX_CONTROL = 2_048
"""Control frames that may wait for one socket; more means that its reader is dead."""
BEATS_AT_ONCE = 100
"""Heartbeats between two looks at what else there is to do."""
CLOSE_AT_ONCE, CLOSE_PAUSE, CLOSE_ROUNDS = 50, 0.05, 80
"""At a stop so many sockets are closed at once, with a pause behind them; and more at once when
that would take more rounds."""
DRAIN_SECONDS = 2.0
"""So long the last of them may take what is left for them."""
ABORT_SECONDS = 1.0


class Count(NamedTuple):
    signed_in: int
    strangers: int
    subscriptions: int


class Channel:
    """Every open socket of this server."""

    def __init__(
        self,
        *,
        store: Store,
        hub: Hub,
        commands: Commands,
        sign_in: SignIn,
        clock: Clock,
        build: str,
        stall_seconds: float,
        tickets: Tickets,
        gate: Gate,
        limits: LimitSettings,
        traffic: Traffic,
    ) -> None:
        """A socket that takes nothing for `stall_seconds` is given up. A closed `gate` lets nobody
        in."""
        self._store = store
        self._hub = hub
        self._commands = commands
        self._sign_in = sign_in
        self._clock = clock
        self._build = build
        self._stall_seconds = stall_seconds
        self._sessions: dict[Session, UserId | None] = {}
        self._tickets = tickets
        self._gate = gate
        self._traffic = traffic
        self._limits = limits
        self._wire_limits = wire_limits(limits)
        self._most = most_sockets(limits)
        self._numbers = count(1)
        self._empty = asyncio.Event()
        self._empty.set()

    async def endpoint(self, websocket: WebSocket) -> None:
        """Check who asks before the socket is accepted, then serve it to its end."""
        try:
            guest = self._admit(websocket)
        except ProtocolError as error:
            self._sign_in.tell_refused(websocket, error)
            await websocket.send_denial_response(refusal(error))
            return
        if SUBPROTOCOL not in websocket.scope["subprotocols"]:
            await websocket.accept()
            await _close(websocket, CloseCode.UNSUPPORTED)
            return
        session = Session(
            websocket, guest, store=self._store, hub=self._hub, commands=self._commands,
            clock=self._clock, stall_seconds=self._stall_seconds, redeem=self._redeem,
            limits=self._wire_limits, traffic=self._traffic, answered=self._answered,
            number=next(self._numbers),
        )  # fmt: skip
        self._sessions[session] = None if guest is None else guest.user
        self._empty.clear()
        try:
            await websocket.accept(subprotocol=SUBPROTOCOL)
            if guest is not None:
                session.send(self._welcome(session, guest))
                session.forget_request()
            await session.serve()
        finally:
            self._sign_in.visits.left(session)
            del self._sessions[session]
            if not self._sessions:
                self._empty.set()

    async def beat(self) -> None:
        """Queue a heartbeat on every socket every HEARTBEAT_SECONDS: one clock for all of them."""
        while True:
            await self._clock.sleep(HEARTBEAT_SECONDS)
            at = rfc3339(self._clock.now())
            for number, session in enumerate(list(self._sessions)):
                session.beat(at)
                if number % BEATS_AT_ONCE == 0:
                    await asyncio.sleep(0)

    async def drain(self) -> None:
        """Tell every client that the server stops and when to come back, then close the sockets
        with 1012, some at a time. Who does not take it is cut off: it holds up nobody for longer
        than DRAIN_SECONDS."""
        self._gate.close()
        sessions = list(self._sessions)
        for session, retry_after_ms in zip(sessions, return_times(len(sessions)), strict=True):
            session.send(FlowRunDraining(retry_after_ms=retry_after_ms))
        at_once = max(CLOSE_AT_ONCE, len(sessions) // CLOSE_ROUNDS)
        for first in range(0, len(sessions), at_once):
            for session in sessions[first : first + at_once]:
                session.end(CloseCode.RESTART)
            await asyncio.sleep(CLOSE_PAUSE)
        if not await self._emptied(DRAIN_SECONDS):
            log.info("stalled_at_the_stop", sockets=len(self._sessions))
            for session in self._sessions:
                session.abort()
            await self._emptied(ABORT_SECONDS)

    def count(self) -> Count:
        strangers = self._open_of(None)
        followed = sum(session.subscriptions for session in self._sessions)
        return Count(len(self._sessions) - strangers, strangers, followed)

    async def _emptied(self, seconds: float) -> bool:
        """Whether every socket ends within that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _admit(self, websocket: WebSocket) -> Guest | None:
        self._gate.check()
        if len(self._sessions) >= self._most:
            raise Refused(503, ErrorCode.BUSY, "the server has no room", hint="come back later")
        guest = self._sign_in.identify_socket(websocket)
        user = None if guest is None else guest.user
        limits = self._limits
        if self._open_of(user) >= (limits.strangers if user is None else limits.sockets_per_user):
            raise _too_many()
        return guest

    def _redeem(self, session: "Session", ticket: str) -> tuple[Guest, FlowRunHello]:
        """Make a socket that of the ticket's user; raises ProtocolError."""
        guest = self._tickets.redeem(ticket, peer=self._sign_in.address(session.websocket))
        if self._open_of(guest.user) >= self._limits.sockets_per_user:
            raise _too_many()
        return guest, self._welcome(session, guest)

    def _welcome(self, session: "Session", guest: Guest) -> FlowRunHello:
        """From now on the socket is the guest's, until the sign-in ends."""
        self._sessions[session] = guest.user
        self._sign_in.visits.enter(session, guest, session.end)
        tell_sign_in(self._sign_in.audit, guest)
        return self._hello(guest.user)

    def _answered(self, session: "Session", command: Command, answer: ControlFrame) -> None:
        assert session.guest is not None
        tell_command(self._sign_in.audit, session.guest, command, answer, socket=session.number)

    def _open_of(self, user: UserId | None) -> int:
        return list(self._sessions.values()).count(user)

    def _hello(self, user: UserId) -> FlowRunHello:
        return FlowRunHello(
            user_id=user,
            build=self._build,
            server_time=rfc3339(self._clock.now()),
            limits=self._wire_limits,
        )


class Session:
    """One socket. Its tasks are its own: the reader, which is that of the request, the writer, and
    commands under way."""

    def __init__(
        self,
        websocket: WebSocket,
        guest: Guest | None,
        *,
        store: Store,
        hub: Hub,
        commands: Commands,
        clock: Clock,
        stall_seconds: float,
        redeem: Callable[["Session", str], tuple[Guest, FlowRunHello]],
        answered: Callable[["Session", Command, ControlFrame], None],
        number: int,
        limits: Limits,
        traffic: Traffic,
    ) -> None:
        """`answered` hears of every message of a guest, with its answer."""
        self.websocket = websocket
        self._outbox = outbox_of(websocket, stall_seconds, traffic)
        self.guest = guest
        self.number = number
        self._redeem = redeem
        self._answered = answered
        self._commands = commands
        self._clock = clock
        self._connection = Connection(
            limits, now=clock.monotonic(), authenticated=guest is not None
        )
        self._traffic = traffic
        self._wake = Flag()
        self._delivery = Delivery(
            self._connection, store=store, hub=hub, wake=self._wake.set, express=self._express
        )
        self._control: deque[ControlFrame] = deque()
        self._leaving: list[Command] = []
        """Those whose answers wait to leave."""
        self._closing: CloseCode | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._resting = False
        """Whether the writer waits for something to do."""

    @property
    def subscriptions(self) -> int:
        return len(self._connection.following)

    def send(self, frame: ControlFrame) -> None:
        """Queue a control frame; it leaves before any frame of a run that is not sent yet."""
        if len(self._control) < MAX_CONTROL:
            self._control.append(frame)
            self._wake.set()
        elif self._closing is None:
            self.end(CloseCode.OVERLOADED)

    def end(self, code: CloseCode) -> None:
        """Close the socket once what is queued has left, and take no message any more. A stop does
        not replace an earlier end: who was signed out is shown nothing more. A peer that takes
        byte for byte cannot put it off for longer than CLOSE_SECONDS."""
        if self._closing is None or code is not CloseCode.RESTART:
            self._closing = code
        if self._cut is None:
            self._cut = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._outbox.abort)
        self._wake.set()

    def forget_request(self) -> None:
        """Who is signed in is asked for no header and no cookie any more; a pane keeps none."""
        self.websocket.scope["headers"].clear()

    def abort(self) -> None:
        """End the socket at once, whatever it was sent and has not taken."""
        self._outbox.abort()

    async def serve(self) -> None:
        """Until the client leaves, stalls or misbehaves. No task is left behind."""
        code = CloseCode.GOING_AWAY
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write())
                if self.guest is None:
                    group.create_task(self._expire())
                await self._read(group)
                raise _Ended
        except* (_Ended, WebSocketDisconnect, RuntimeError):
            # The client has left, or sending raced the close: there is nobody left to tell.
            code = self._closing or code
        except* Stalled:
            # A close would wait behind everything that the peer does not take.
            code = CloseCode.STALLED
            self._traffic.stalled += 1
            self._outbox.abort()
        except* StoreUnavailable:
            # The log cannot be read now: the client comes back, with its cursor.
            code = CloseCode.OVERLOADED
        finally:
            if self._cut is not None:
                self._cut.cancel()
            self._delivery.close()
            self._traffic.closes[code] += code is not CloseCode.GOING_AWAY  # that one left itself
            await self._close(code)

    async def _close(self, code: CloseCode) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await _close(self.websocket, code)
        except TimeoutError:
            self._outbox.abort()

    async def _read(self, group: asyncio.TaskGroup) -> None:
        """Only parse and hand on: a reader that waits for work misses the peer's pongs."""
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if self._closing is not None:
                continue  # nobody is left to do it for; read on, so that the close is not missed
            text = message.get("text")
            data: str | bytes = text if text is not None else message["bytes"]
            for effect in self._connection.receive(data, self._clock.monotonic()):
                match effect:
                    case Send(frame):
                        self.send(frame)
                        if _is_rate(frame):
                            self._traffic.rate_limited += 1
                            await asyncio.sleep(0)  # a flood must not keep the loop to itself
                    case Close(code):
                        self.end(code)
                    case Handle(command):
                        self._begin(group, command)

    def _begin(self, group: asyncio.TaskGroup, command: Command) -> None:
        if self.guest is None:
            self._greet(command)
            return
        try:
            self._connection.begin(command)
        except ProtocolError as error:
            self.send(error_frame(command.id, error))
        else:
            group.create_task(self._answer(command))

    def _greet(self, command: Command) -> None:
        """The connection lets only a `hello` with a ticket through before its sign-in."""
        assert isinstance(command, Hello)
        assert command.ticket is not None
        try:
            self.guest, hello = self._redeem(self, command.ticket)
        except ProtocolError as error:
            self.send(error_frame(command.id, error))
        else:
            self._connection.sign_in()
            self.send(FlowRunAck(id=command.id))
            self.send(hello)
            self.forget_request()

    async def _expire(self) -> None:
        """A socket that is not signed in in time is closed."""
        await self._clock.sleep(HELLO_SECONDS)
        if self.guest is None:
            self.end(CloseCode.UNAUTHENTICATED)

    async def _answer(self, command: Command) -> None:
        assert self.guest is not None

        def send(frame: ControlFrame) -> None:
            if getattr(frame, "id", None) == command.id:
                self._answered(self, command, frame)
            self.send(frame)

        try:
            await self._commands.answer(
                self.guest.user, command, delivery=self._delivery, send=send
            )
        finally:
            self._leaving.append(command)
            self._wake.set()

    def _express(self, batch: Batch) -> bool:
        """Write here and now what a reader that has everything else is to get: the writer need not
        wake up for it. False when anything else comes first."""
        if not self._resting or self._control or self._closing or self._wake.is_set():
            return False
        return self._outbox.express(batch)

    async def _write(self) -> None:
        """The one writer of the socket: control frames first, then a page of each run in turn. What
        one round has leaves together."""
        while True:
            self._resting = True
            await self._wake.wait()
            self._resting = False
            self._wake.clear()
            more = True
            while more:
                # What was there before the end still leaves: one page of each run at a stop.
                ending = self._closing is not None
                more = await self._round()
                await self._outbox.flush()
                if ending:
                    raise _Ended
                if more:
                    # A peer that takes everything at once must not keep the loop to itself.
                    await asyncio.sleep(0)

    async def _round(self) -> bool:
        """Fill the outbox; True when there may be more already."""
        while self._control or self._leaving:
            # Again: what is queued while the answers leave comes before the frames that it begins.
            while self._control:
                self._outbox.control(self._control.popleft())
            if self._leaving:
                await self._let_answers_go()
        if self._closing not in (None, CloseCode.RESTART):
            return False
        try:
            return self._delivery.pump(self._outbox)
        except StoreUnavailable:
            # The answers that are ready are still owed.
            await self._outbox.flush()
            raise

    async def _let_answers_go(self) -> None:
        """A message waits until its answer has left: who does not read is not answered for ever."""
        answered, self._leaving = self._leaving, []
        await self._outbox.flush()
        for command in answered:
            self._connection.done(command)

    def beat(self, at: str) -> None:
        """Queue a heartbeat."""
        self.send(self._delivery.heartbeat(at))


def _is_rate(frame: ControlFrame) -> bool:
    return isinstance(frame, FlowRunError) and frame.code is ErrorCode.RATE_LIMITED


def _too_many() -> Refused:
    return Refused(429, ErrorCode.RATE_LIMITED, "too many open sockets", hint="close some of them")


class _Ended(Exception):
    """Ends a session's task group; nothing went wrong."""


async def _close(websocket: WebSocket, code: CloseCode) -> None:
    if websocket.application_state is WebSocketState.CONNECTED:
        with suppress(RuntimeError, WebSocketDisconnect):
            await websocket.close(code, CLOSE_RULES[code].reason)
