"""The sans-I/O state of one connection: what it may send, what it is owed, what it has seen.

The shell hands in text and committed frames and gets back what to do; it owns the socket, the
clock and the tasks. Nothing here waits, and nothing knows the time but by a `now` (seconds that
only go forward).

A connection holds one cursor for each run it follows, never a queue of frames. The shell reads
what follows `Following.sent` in the log or the hub, sends it and notes it with `Following.take`.
Subscribing again puts a new Following in place of the old one: a shell that finds
`following[run_id]` to be another object than before drops what it has read.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from msgspec import Struct

from protocol.bucket import Bucket
from protocol.codec import decode_command, id_of
from protocol.commands import Command, Cursor, Detail, Hello
from protocol.errors import BadMessage, CloseCode, ErrorCode, MessageTooLarge, ProtocolError
from protocol.frames import ControlFrame, FlowRunCaughtUp, FlowRunError, Limits
from protocol.ids import Gen, RunId, Seq

HELLO_SECONDS = 10.0
"""So long an unauthenticated connection may take for its `hello`."""
ABUSE_SECONDS = 10.0
"""So long above the rate before the socket is closed."""
MAX_GARBAGE = 20
"""So many messages in a row without a usable id before the socket is closed."""


class Send(Struct, frozen=True):
    frame: ControlFrame


class Handle(Struct, frozen=True):
    """The shell begins it, answers it exactly once by its id, and then says it is done."""

    command: Command


class Close(Struct, frozen=True):
    code: CloseCode


Effect = Send | Handle | Close


class LogState(NamedTuple):
    """Where a run's log stands when somebody subscribes."""

    gen: Gen
    head: Seq
    floor: Seq
    """Frames up to here have expired."""
    bases: Sequence[tuple[Gen, Seq]]
    """Where each generation began."""


def error_frame(id: str, error: ProtocolError) -> FlowRunError:
    return FlowRunError(
        id=id,
        code=error.code,
        message=error.message,
        field=error.field,
        hint=error.hint,
        retry_after_ms=error.retry_after_ms,
    )


def start_after(log: LogState, *, after: Cursor | None, tail: int | None) -> Seq | None:
    """The seq after which frames are to follow; None when some of them have expired.

    It is the smaller of the client's seq and the base of every later generation, and never past
    the head: what a client has beyond that was lost, and it truncates to it. A cursor of a
    generation that this log does not know starts at the beginning. A tail never expires. Raises
    BadMessage when both are given.
    """
    if after is not None and tail is not None:
        raise BadMessage("`after` and `tail` exclude each other", field="tail")
    if tail is not None:
        return Seq(max(log.head - tail, log.floor))
    start = Seq(0) if after is None or after.gen > log.gen else _kept(log, after)
    return start if start >= log.floor else None


def _kept(log: LogState, cursor: Cursor) -> Seq:
    """What this log still holds of what the client has."""
    later = [base for gen, base in log.bases if gen > cursor.gen]
    return Seq(min([cursor.seq, log.head, *later]))


class Following:
    """One subscription: a cursor, never a queue. `head` is the log's when it began."""

    def __init__(self, *, sent: Seq, head: Seq, shown_head: Seq, detail: Detail) -> None:
        self.sent = sent
        """Up to here everything was sent, or is not shown: read on after it."""
        self.head = head
        self.shown_head = shown_head
        """The last frame up to `head` that this detail shows."""
        self.detail = detail
        self.live = False
        """Whether all that was there when it began has been sent."""
        self._shown = sent

    @property
    def outline(self) -> bool:
        return self.detail is Detail.OUTLINE

    def take(self, through: Seq, shown: Seq | None) -> None:
        """What lies between the cursor and `through` is sent; `shown` is the last frame in it, None
        when this detail shows none of it."""
        self.sent = through
        if shown is not None:
            self._shown = shown

    def skip(self, head: Seq) -> None:
        """Frames after the cursor have expired: go on after `head`."""
        self.sent = self._shown = head

    def caught_up(self, run_id: RunId) -> FlowRunCaughtUp | None:
        """Once, when all that was there when it began has been sent.

        It names the last frame sent, or the start when there was nothing to send.
        """
        if self.live or self.sent < self.head:
            return None
        self.live = True
        return FlowRunCaughtUp(run_id=run_id, seq=self._shown)


class Connection:
    """The rules of one connection, from its first message to its close."""

    def __init__(self, limits: Limits, *, now: float, authenticated: bool = True) -> None:
        self.following: dict[RunId, Following] = {}
        self.authenticated = authenticated
        self._limits = limits
        self._greetable = True
        self._waiting: set[str] = set()
        self._garbage = 0
        self._bucket = Bucket(limits.burst, limits.per_second, now=now)
        self._abused_since: float | None = None

    # --- messages -------------------------------------------------------------------------------

    def receive(self, message: str | bytes, now: float) -> list[Effect]:
        """Take one message: text as str, binary as bytes. What is refused is answered here."""
        if not self._allowed(now):
            return self._too_fast(message, now)
        try:
            if isinstance(message, bytes):
                raise BadMessage("binary messages are not taken", hint="send JSON as text")
            command = decode_command(message, limit=self._limits.message_bytes)
        except (BadMessage, MessageTooLarge) as error:
            return self._not_understood(error)
        self._garbage = 0
        try:
            self._check(command)
        except ProtocolError as error:
            return [Send(error_frame(command.id, error))]
        # Until a ticket was good, `hello` may be tried again.
        self._greetable = not self.authenticated
        return [Handle(command)]

    def sign_in(self) -> None:
        """The ticket of `hello` was good: from now on every message is taken but another one."""
        self.authenticated = True
        self._greetable = False

    def begin(self, command: Command) -> None:
        """Take note that a message waits for its answer.

        Raises ProtocolError when its id is in use by another that waits, or too many wait.
        """
        if command.id in self._waiting:
            raise BadMessage(
                "an earlier message with this id is not answered yet", id=command.id, field="id"
            )
        if len(self._waiting) >= self._limits.waiting:
            raise ProtocolError(
                ErrorCode.BUSY,
                f"{self._limits.waiting} messages wait for their answers",
                hint="wait for an answer before asking more",
                retry_after_ms=1000,
            )
        self._waiting.add(command.id)

    def done(self, command: Command) -> None:
        """Take note that a message that was begun is answered."""
        self._waiting.discard(command.id)

    def _check(self, command: Command) -> None:
        if isinstance(command, Hello) and not self._greetable:
            raise BadMessage("`hello` comes first or not at all", field="type")
        if not self.authenticated and not (isinstance(command, Hello) and command.ticket):
            raise ProtocolError(
                ErrorCode.UNAUTHENTICATED,
                "the connection is not signed in",
                hint="send `hello` with a ticket and wait for `flow_run_hello`",
            )

    def _not_understood(self, error: BadMessage | MessageTooLarge) -> list[Effect]:
        effects: list[Effect] = [Send(error_frame(error.id, error))]
        self._garbage = 0 if error.id else self._garbage + 1
        if self._garbage >= MAX_GARBAGE:
            large = isinstance(error, MessageTooLarge)
            effects.append(Close(CloseCode.TOO_LARGE if large else CloseCode.BAD_MESSAGE))
        return effects

    # --- the rate -------------------------------------------------------------------------------

    def _allowed(self, now: float) -> bool:
        """Take one token of the bucket, if there is one."""
        if self._bucket.left(now) >= self._limits.burst / 2:
            self._abused_since = None
        return self._bucket.take(now)

    def _too_fast(self, message: str | bytes, now: float) -> list[Effect]:
        if self._abused_since is None:
            self._abused_since = now
        error = ProtocolError(
            ErrorCode.RATE_LIMITED,
            f"more than {self._limits.per_second} messages a second",
            retry_after_ms=self._bucket.wait_ms(now),
        )
        effects: list[Effect] = [Send(error_frame(id_of(message), error))]
        if now - self._abused_since >= ABUSE_SECONDS:
            effects.append(Close(CloseCode.RATE_LIMITED))
        return effects

    # --- subscriptions --------------------------------------------------------------------------

    def check_room(self, run_id: RunId, opening: Collection[RunId] = ()) -> None:
        """Raise ProtocolError when following this run would be one too many; `opening` are those
        that are about to be followed."""
        taken = self.following.keys() | opening
        if run_id in taken or len(taken) < self._limits.subscriptions:
            return
        raise ProtocolError(
            ErrorCode.BUSY,
            f"this connection follows {len(taken)} runs already",
            field="run_id",
            hint="unsubscribe from runs that have ended",
        )
