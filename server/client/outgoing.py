"""What is to be said: commands until they are answered, then subscriptions, no faster than the
server takes them."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

import msgspec

from protocol.codec import encode
from protocol.commands import Command, Ping, Unsubscribe
from protocol.errors import ErrorCode, MessageTooLarge, ProtocolError
from protocol.frames import FlowRunAck, FlowRunError, Limits
from protocol.ids import RunId
from server.client.cursor import Phase
from server.client.reader import AnyReader
from server.client.states import Unreachable, bounded

IN_FLIGHT = 8
"""Messages that wait for an answer; the server takes 16."""
MAX_PENDING = 256
"""Commands that wait, sent or not."""
SHARE = 0.75
"""Of the server's rate that we use, so that no message is ever refused for it."""
LATER = {ErrorCode.RATE_LIMITED, ErrorCode.BUSY}
"""Asked again when the server says when."""
PASSING = {ErrorCode.STORE_UNAVAILABLE, ErrorCode.INTERNAL}
"""A subscription outlasts these."""
AGAIN_MS = 1_000


class Ask:
    """One message, and who waits for its answer: a caller, a subscription, or nobody."""

    def __init__(
        self,
        message: Command,
        *,
        answer: "asyncio.Future[FlowRunAck] | None" = None,
        reader: AnyReader | None = None,
    ) -> None:
        self.message = message
        self.reader = reader
        self._answer = answer

    @property
    def outlasts(self) -> bool:
        """Whether a new connection asks it again. Subscriptions see to that by themselves, and a
        ping is about its connection."""
        return self._answer is not None and not isinstance(self.message, Ping)

    def done(self, ack: FlowRunAck) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(ack)

    def fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        if self.reader is not None:
            self.reader.fail(error)


class Outgoing:
    """Everything that a client has to say. It outlives connections: `welcome` begins one and `lost`
    ends it."""

    def __init__(self, readers: Callable[[], Sequence[AnyReader]]) -> None:
        """`readers` are those of now; what they want is found out when there is room to ask."""
        self.wake = asyncio.Event()
        self._readers = readers
        self._ids = map(str, count(1))
        self._commands: deque[Ask] = deque()
        self._asked: dict[str, Ask] = {}
        self._pending: set[Ask] = set()
        self._later: set[asyncio.TimerHandle] = set()
        self._limits: Limits | None = None
        self._tokens, self._counted = 0.0, 0.0

    # --- what is put in -------------------------------------------------------------------------

    async def answer(self, message: Command) -> FlowRunAck:
        """The answer to a message, asked over every connection until it is there; whoever gives up
        waiting takes it back. Raises ProtocolError and Unreachable."""
        if len(self._pending) >= MAX_PENDING:
            raise ProtocolError(ErrorCode.BUSY, f"{MAX_PENDING} commands wait for their answers")
        answer: asyncio.Future[FlowRunAck] = asyncio.get_running_loop().create_future()
        ask = Ask(msgspec.structs.replace(message, id=next(self._ids)), answer=answer)
        self._pending.add(ask)
        self._put(ask)
        try:
            return await answer
        finally:
            self._pending.discard(ask)
            self._asked.pop(ask.message.id, None)
            with suppress(ValueError):
                self._commands.remove(ask)
            self.wake.set()

    def forget(self, run_id: RunId | None) -> None:
        """Say that a run, or the run list, is no longer followed; nobody waits for the answer."""
        self._put(Ask(Unsubscribe(id=next(self._ids), run_id=run_id)))

    def _put(self, ask: Ask) -> None:
        self._commands.append(ask)
        self.wake.set()

    # --- what is taken out ----------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is something to say, and room for its answer."""
        return len(self._asked) < IN_FLIGHT and bool(self._commands or self._wanted())

    def next(self) -> str | None:
        """What to say now, and its text; what is too large is refused here."""
        ask = self._first()
        if ask is None:
            return None
        text = encode(ask.message)
        limit = self._limits.message_bytes if self._limits else len(text)
        if len(text) > limit:
            ask.fail(MessageTooLarge(len(text), limit))
            return None
        self._tokens -= 1
        self._asked[ask.message.id] = ask
        return text.decode()

    def _first(self) -> Ask | None:
        if self._commands:
            return self._commands.popleft()
        for reader in self._wanted():
            return Ask(reader.subject.request(next(self._ids)), reader=reader)
        return None

    def _wanted(self) -> list[AnyReader]:
        return [each for each in self._readers() if each.subject.phase is Phase.WANTED]

    def until_allowed(self) -> float:
        """Seconds until one more message is welcome."""
        burst = SHARE * (self._limits.burst if self._limits else 64)
        rate = SHARE * (self._limits.per_second if self._limits else 20)
        now = asyncio.get_running_loop().time()
        self._tokens = min(burst, self._tokens + (now - self._counted) * rate)
        self._counted = now
        return max(0.0, (1 - self._tokens) / rate)

    # --- what comes of it -----------------------------------------------------------------------

    def answered(self, frame: FlowRunAck) -> None:
        """An answer to nothing of ours is nothing."""
        ask = self._asked.pop(frame.id, None)
        if ask is not None:
            ask.done(frame)

    def refused(self, frame: FlowRunError) -> None:
        ask = self._asked.pop(frame.id, None)
        if ask is None:
            return
        if frame.code is ErrorCode.RATE_LIMITED:
            self._tokens = 0.0
        later = frame.code in LATER and frame.retry_after_ms is not None
        if later or (ask.reader is not None and frame.code in PASSING):
            wait = AGAIN_MS if frame.retry_after_ms is None else frame.retry_after_ms
            self._call_later(bounded(wait) / 1000, lambda: self._again(ask))
        else:
            ask.fail(refusal(frame))

    def welcome(self, limits: Limits) -> None:
        """A connection is there."""
        self._limits = limits
        self._tokens, self._counted = float("inf"), asyncio.get_running_loop().time()
        self.wake.set()

    def lost(self) -> None:
        """What the connection owed is asked anew, in the order in which it was asked."""
        owed = [*self._asked.values(), *self._commands]
        self._asked.clear()
        self._commands = deque(ask for ask in owed if ask.outlasts)
        for ask in owed:
            if not ask.outlasts and ask.reader is None:
                ask.fail(Unreachable("the connection was lost"))
        self._cancel_timers()
        for ask in self._pending.difference(owed):  # what the server had put off
            self._put(ask)
        for reader in self._readers():
            reader.subject.lost()

    def end(self, error: Exception) -> None:
        """There will be no other connection."""
        self._cancel_timers()
        for ask in self._pending:
            ask.fail(error)
        for reader in self._readers():
            reader.fail(error)

    def _again(self, ask: Ask) -> None:
        """Ask what was put off, unless it was given up meanwhile."""
        if ask.reader is not None:
            if ask.reader.subject.phase is Phase.ASKED:
                ask.reader.subject.phase = Phase.WANTED
            self.wake.set()
        elif ask in self._pending:
            self._put(ask)

    def _call_later(self, seconds: float, action: Callable[[], None]) -> None:
        def act() -> None:
            self._later.discard(handle)
            action()

        handle = asyncio.get_running_loop().call_later(seconds, act)
        self._later.add(handle)

    def _cancel_timers(self) -> None:
        for handle in self._later:
            handle.cancel()
        self._later.clear()


def refusal(frame: FlowRunError) -> ProtocolError:
    return ProtocolError(
        frame.code,
        frame.message,
        field=frame.field,
        hint=frame.hint,
        retry_after_ms=frame.retry_after_ms,
    )
