"""One WebSocket, which carries every run that its user follows: its reader, its one writer, the
messages under way, and its end."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from protocol.commands import Command, Hello
from protocol.connection import HELLO_SECONDS, Close, Connection, Handle, Send, error_frame
from protocol.errors import CLOSE_RULES, CloseCode, ErrorCode, ProtocolError
from protocol.frames import ControlFrame, FlowRunAck, FlowRunError, FlowRunHello, Limits
from server.channel.commands import Commands
from server.channel.delivery import Delivery
from server.channel.outbox import Stalled, outbox_of
from server.channel.traffic import Traffic
from server.channel.waiting import Flag
from server.ports import Batch, Clock, Hub, Store, StoreUnavailable
from server.users.directory import Guest

CLOSE_SECONDS = 10.0
"""So long a close may wait for a peer that reads slowly; and before it, so long what is queued."""
MAX_CONTROL = 2_048
"""Control frames that may wait for one socket; more means that its reader is dead."""


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
        confirm: Callable[["Session", str], None],
        answered: Callable[["Session", Command, ControlFrame], None],
        number: int,
        limits: Limits,
        traffic: Traffic,
    ) -> None:
        """`redeem` signs a stranger in by a ticket; `confirm` refuses a ticket that does not fit
        who is signed in. `answered` hears of every message of a guest, with its answer."""
        self.websocket = websocket
        self._outbox = outbox_of(websocket, stall_seconds, traffic)
        self.guest = guest
        self.number = number
        self._redeem = redeem
        self._confirm = confirm
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

    def beat(self, at: str) -> None:
        """Queue a heartbeat."""
        self.send(self._delivery.heartbeat(at))

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
                await close_socket(self.websocket, code)
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
            if isinstance(command, Hello) and command.ticket is not None:
                self._confirm(self, command.ticket)
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


def _is_rate(frame: ControlFrame) -> bool:
    return isinstance(frame, FlowRunError) and frame.code is ErrorCode.RATE_LIMITED


class _Ended(Exception):
    """Ends a session's task group; nothing went wrong."""


async def close_socket(websocket: WebSocket, code: CloseCode) -> None:
    """With the reason of the code; one that is not open, or no longer, is left alone."""
    if websocket.application_state is WebSocketState.CONNECTED:
        with suppress(RuntimeError, WebSocketDisconnect):
            await websocket.close(code, CLOSE_RULES[code].reason)
