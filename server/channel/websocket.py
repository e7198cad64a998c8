"""The WebSocket: one socket carries every run that its user follows."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from protocol.codec import MESSAGE_LIMIT
from protocol.commands import Command, Hello
from protocol.connection import HELLO_SECONDS, Close, Connection, Handle, Send, error_frame
from protocol.errors import CLOSE_RULES, CloseCode, ErrorCode, ProtocolError
from protocol.frames import ControlFrame, FlowRunAck, FlowRunDraining, FlowRunHello, Limits
from protocol.ids import UserId
from server.channel.commands import Commands
from server.channel.delivery import Delivery
from server.channel.outbox import Stalled, outbox_of
from server.http.answers import refusal
from server.http.sign_in import Refused, SignIn
from server.http.tickets import Tickets
from server.logs import logger
from server.ports import Clock, Hub, Store, StoreUnavailable
from server.world import rfc3339

log = logger(__name__)

SUBPROTOCOL = "podium.v1"
LIMITS = Limits(
    message_bytes=MESSAGE_LIMIT,
    subscriptions=200,
    sockets=32,
    burst=64,
    per_second=20,
    heartbeat_seconds=15.0,
)
CLOSE_SECONDS = 10.0
"""So long a close may wait for a peer that reads slowly."""
MAX_STRANGERS = 64
"""Sockets that may wait for the ticket of their `hello`, each for HELLO_SECONDS."""
MAX_CONTROL = 2_048
"""Control frames that may wait for one socket; more means that its reader is dead."""
DRAIN_RETRY_MS = 2_000
DRAIN_SECONDS = 2.0


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
        beside: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """A socket that takes nothing for `stall_seconds` is given up."""
        self._store = store
        self._hub = hub
        self._commands = commands
        self._sign_in = sign_in
        self._clock = clock
        self._build = build
        self._stall_seconds = stall_seconds
        self._sessions: dict[Session, UserId | None] = {}
        self._tickets = tickets
        self._beside = beside
        self.draining = False

    async def endpoint(self, websocket: WebSocket) -> None:
        """Check who asks before the socket is accepted, then serve it to its end."""
        try:
            user = self._admit(websocket)
        except Refused as error:
            await websocket.send_denial_response(refusal(error))
            return
        if SUBPROTOCOL not in websocket.scope["subprotocols"]:
            await websocket.accept()
            await _close(websocket, CloseCode.UNSUPPORTED)
            return
        await websocket.accept(subprotocol=SUBPROTOCOL)
        session = Session(
            websocket, user, store=self._store, hub=self._hub, commands=self._commands,
            clock=self._clock, stall_seconds=self._stall_seconds, redeem=self._redeem,
        )  # fmt: skip
        self._sessions[session] = user
        try:
            if user is not None:
                session.send(self._hello(user))
            await session.serve()
        finally:
            del self._sessions[session]

    async def drain(self) -> None:
        """Stop taking clients, and say goodbye to all: on the sockets, and to the readers of
        `beside`."""
        self.draining = True
        await asyncio.gather(self._drain_sockets(), *(drain() for drain in self._beside))

    async def _drain_sockets(self) -> None:
        """Tell every client that the server stops, then close the sockets with 1012."""
        sessions = list(self._sessions)
        for session in sessions:
            session.send(FlowRunDraining(retry_after_ms=DRAIN_RETRY_MS))
            session.end(CloseCode.RESTART)
        ended = [asyncio.ensure_future(session.ended.wait()) for session in sessions]
        if ended:
            _, late = await asyncio.wait(ended, timeout=DRAIN_SECONDS)
            for waiting in late:
                waiting.cancel()

    def _admit(self, websocket: WebSocket) -> UserId | None:
        headers = Headers(scope=websocket.scope)
        user = self._sign_in.identify_socket(headers, websocket.cookies)
        if self.draining:
            raise Refused(503, ErrorCode.BUSY, "the server is stopping", hint="come back soon")
        if self._open_of(user) >= (MAX_STRANGERS if user is None else LIMITS.sockets):
            raise _too_many()
        return user

    def _redeem(self, session: "Session", ticket: str) -> tuple[UserId, FlowRunHello]:
        """Make a socket that of the ticket's user; raises ProtocolError."""
        user = self._tickets.redeem(ticket)
        if self._open_of(user) >= LIMITS.sockets:
            raise _too_many()
        self._sessions[session] = user
        return user, self._hello(user)

    def _open_of(self, user: UserId | None) -> int:
        return list(self._sessions.values()).count(user)

    def _hello(self, user: UserId) -> FlowRunHello:
        return FlowRunHello(
            user_id=user,
            build=self._build,
            server_time=rfc3339(self._clock.now()),
            limits=LIMITS,
        )


class Session:
    """One socket. Its tasks are its own: reader, writer, heartbeat, and commands under way."""

    def __init__(
        self,
        websocket: WebSocket,
        user: UserId | None,
        *,
        store: Store,
        hub: Hub,
        commands: Commands,
        clock: Clock,
        stall_seconds: float,
        redeem: Callable[["Session", str], tuple[UserId, FlowRunHello]],
    ) -> None:
        self._websocket = websocket
        self._outbox = outbox_of(websocket, stall_seconds)
        self._user = user
        self._redeem = redeem
        self._commands = commands
        self._clock = clock
        self._connection = Connection(LIMITS, now=clock.monotonic(), authenticated=user is not None)
        self._wake = asyncio.Event()
        self._delivery = Delivery(self._connection, store=store, hub=hub, wake=self._wake.set)
        self._control: deque[ControlFrame] = deque()
        self._closing: CloseCode | None = None
        self.ended = asyncio.Event()

    def send(self, frame: ControlFrame) -> None:
        """Queue a control frame; it leaves before any frame of a run that is not sent yet."""
        if len(self._control) < MAX_CONTROL:
            self._control.append(frame)
        else:
            self._closing = CloseCode.OVERLOADED
        self._wake.set()

    def end(self, code: CloseCode) -> None:
        """Close the socket once what is queued has left."""
        self._closing = code
        self._wake.set()

    async def serve(self) -> None:
        """Until the client leaves, stalls or misbehaves. No task is left behind."""
        code = CloseCode.GOING_AWAY
        try:
            async with asyncio.TaskGroup() as group:
                others = [group.create_task(self._beat())]
                reader = group.create_task(self._read(group))
                others.append(group.create_task(self._write()))
                if self._user is None:
                    group.create_task(self._expire())
                await asyncio.wait([reader, others[1]], return_when=asyncio.FIRST_COMPLETED)
                raise _Ended
        except* (_Ended, WebSocketDisconnect, RuntimeError):
            # The client has left, or sending raced the close: there is nobody left to tell.
            code = self._closing or code
        except* Stalled:
            # A close would wait behind everything that the peer does not take.
            code = CloseCode.STALLED
            self._outbox.abort()
        except* StoreUnavailable:
            # The log cannot be read now: the client comes back, with its cursor.
            code = CloseCode.OVERLOADED
        finally:
            self._delivery.close()
            await self._close(code)
            self.ended.set()

    async def _close(self, code: CloseCode) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await _close(self._websocket, code)
        except TimeoutError:
            self._outbox.abort()

    async def _read(self, group: asyncio.TaskGroup) -> None:
        """Only parse and hand on: a reader that waits for work misses the peer's pongs."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            data: str | bytes = text if text is not None else message["bytes"]
            for effect in self._connection.receive(data, self._clock.monotonic()):
                match effect:
                    case Send(frame):
                        self.send(frame)
                    case Close(code):
                        self.end(code)
                    case Handle(command):
                        self._begin(group, command)

    def _begin(self, group: asyncio.TaskGroup, command: Command) -> None:
        if self._user is None:
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
            self._user, hello = self._redeem(self, command.ticket)
        except ProtocolError as error:
            self.send(error_frame(command.id, error))
        else:
            self._connection.sign_in()
            self.send(FlowRunAck(id=command.id))
            self.send(hello)

    async def _expire(self) -> None:
        """A socket that is not signed in in time is closed."""
        await self._clock.sleep(HELLO_SECONDS)
        if self._user is None:
            self.end(CloseCode.UNAUTHENTICATED)

    async def _answer(self, command: Command) -> None:
        assert self._user is not None
        try:
            await self._commands.answer(
                self._user, command, delivery=self._delivery, send=self.send
            )
        finally:
            self._connection.done(command)

    async def _write(self) -> None:
        """The one writer of the socket: control frames first, then a page of each run in turn. What
        one round has leaves together."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            more = True
            while more:
                # What was queued before the end still leaves.
                ending = self._closing is not None
                more = await self._round()
                await self._outbox.flush()
                if ending:
                    return
                if more:
                    # A peer that takes everything at once must not keep the loop to itself.
                    await asyncio.sleep(0)

    async def _round(self) -> bool:
        """Fill the outbox; True when there may be more already."""
        while self._control:
            self._outbox.control(self._control.popleft())
        if self._closing is not None:
            return False
        try:
            return self._delivery.pump(self._outbox)
        except StoreUnavailable:
            # The answers that are ready are still owed.
            await self._outbox.flush()
            raise

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(LIMITS.heartbeat_seconds)
            at = rfc3339(self._clock.now())
            self.send(self._delivery.heartbeat(at))


def _too_many() -> Refused:
    return Refused(429, ErrorCode.RATE_LIMITED, "too many open sockets", hint="close some of them")


class _Ended(Exception):
    """Ends a session's task group; nothing went wrong."""


async def _close(websocket: WebSocket, code: CloseCode) -> None:
    if websocket.application_state is WebSocketState.CONNECTED:
        with suppress(RuntimeError, WebSocketDisconnect):
            await websocket.close(code, CLOSE_RULES[code].reason)
