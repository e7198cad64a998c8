"""Every WebSocket of this server: who may open one, its heartbeats, and the stop."""

import asyncio
from collections import Counter
from itertools import count
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from protocol.commands import Command
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.frames import ControlFrame, FlowRunDraining, FlowRunHello
from protocol.ids import UserId
from server.channel.commands import Commands
from server.channel.session import Session, close_socket
from server.channel.traffic import Traffic
from server.http.answers import refusal
from server.http.refused import Refused
from server.http.sign_in import SignIn
from server.http.tickets import Tickets
from server.limits import HEARTBEAT_SECONDS, LimitSettings, most_sockets, wire_limits
from server.logs import logger
from server.ports import Clock, Hub, Store
from server.stopping import DRAIN_SECONDS, Gate, return_times
from server.users.deeds import tell_command, tell_sign_in
from server.users.directory import Guest
from server.world import rfc3339

log = logger(__name__)

SUBPROTOCOL = "podium.v1"
BEATS_AT_ONCE = 100
"""Heartbeats between two looks at what else there is to do."""
CLOSE_AT_ONCE, CLOSE_PAUSE, CLOSE_ROUNDS = 50, 0.05, 80
"""At a stop so many sockets are closed at once, with a pause behind them; and more at once when
that would take more rounds."""
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
        self._of: Counter[UserId | None] = Counter()
        """Sockets of each user; of None, those of strangers."""
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
            await close_socket(websocket, CloseCode.UNSUPPORTED)
            return
        session = Session(
            websocket, guest, store=self._store, hub=self._hub, commands=self._commands,
            clock=self._clock, stall_seconds=self._stall_seconds, redeem=self._redeem,
            confirm=self._confirm, limits=self._wire_limits, traffic=self._traffic,
            answered=self._answered, number=next(self._numbers),
        )  # fmt: skip
        self._seat(session, None if guest is None else guest.user)
        self._empty.clear()
        try:
            await websocket.accept(subprotocol=SUBPROTOCOL)
            if guest is not None:
                session.send(self._welcome(session, guest))
                session.forget_request()
            await session.serve()
        finally:
            self._sign_in.visits.left(session)
            self._unseat(session)
            if not self._sessions:
                self._empty.set()

    async def no_upgrade(self, request: Request) -> Response:
        """Somebody asks for the socket as for a page: mostly a proxy that forgets a line."""
        return refusal(
            Refused(
                426,
                ErrorCode.BAD_MESSAGE,
                "this is a WebSocket, and the request did not ask for the upgrade",
                hint="a proxy must pass on `Upgrade` and `Connection`: see docs/proxies.md",
            )
        )

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
        than DRAIN_SECONDS. The gate is closed."""
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
        strangers = self._of[None]
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
        if self._of[user] >= (limits.strangers if user is None else limits.sockets_per_user):
            raise _too_many()
        return guest

    def _redeem(self, session: Session, ticket: str) -> tuple[Guest, FlowRunHello]:
        """Make a socket that of the ticket's user; raises ProtocolError."""
        guest = self._tickets.redeem(ticket, peer=self._sign_in.address(session.websocket))
        if self._of[guest.user] >= self._limits.sockets_per_user:
            raise _too_many()
        return guest, self._welcome(session, guest)

    def _confirm(self, session: Session, ticket: str) -> None:
        """Use up the ticket of a socket that is signed in already, as one whose browser has a
        cookie, too. Raises ProtocolError unless it is the same user's: the socket stays as it is,
        and nobody takes it for somebody else's."""
        assert session.guest is not None
        guest = self._tickets.redeem(ticket, peer=session.guest.peer)
        if guest.user != session.guest.user:
            raise ProtocolError(
                ErrorCode.FORBIDDEN,
                "this socket is signed in as another user than its ticket",
                field="ticket",
                hint="open it without that credential; a browser sends podium's cookie by itself",
            )

    def _welcome(self, session: Session, guest: Guest) -> FlowRunHello:
        """From now on the socket is the guest's, until the sign-in ends."""
        self._unseat(session)
        self._seat(session, guest.user)
        self._sign_in.visits.enter(session, guest, session.end)
        tell_sign_in(self._sign_in.audit, guest)
        return self._hello(guest.user)

    def _answered(self, session: Session, command: Command, answer: ControlFrame) -> None:
        assert session.guest is not None
        tell_command(self._sign_in.audit, session.guest, command, answer, socket=session.number)

    def _seat(self, session: Session, user: UserId | None) -> None:
        self._sessions[session] = user
        self._of[user] += 1

    def _unseat(self, session: Session) -> None:
        user = self._sessions.pop(session)
        self._of[user] -= 1
        if not self._of[user]:
            del self._of[user]

    def _hello(self, user: UserId) -> FlowRunHello:
        return FlowRunHello(
            user_id=user,
            build=self._build,
            server_time=rfc3339(self._clock.now()),
            limits=self._wire_limits,
        )


def _too_many() -> Refused:
    return Refused(429, ErrorCode.RATE_LIMITED, "too many open sockets", hint="close some of them")
