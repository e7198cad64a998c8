"""What is taken of one run's frames, whatever the server sends: the rules of the cursor.

Nothing here waits or knows a socket. `docs/write-a-client.md` explains the rules, `client.js` has
the same ones.
"""

from enum import Enum, auto

from protocol.codec import UnknownFrame
from protocol.commands import Cursor, Detail, Subscribe
from protocol.errors import BadMessage
from protocol.frames import (
    FlowRunCaughtUp,
    FlowRunLagging,
    FlowRunReset,
    FlowRunSubscribed,
    Frame,
    ServerFrame,
    StoredFrame,
)
from protocol.ids import Gen, RunId, Seq

FollowEvent = StoredFrame | FlowRunSubscribed | FlowRunReset | FlowRunCaughtUp | FlowRunLagging
"""What an application hears of a run: stored frames, each once and in order, and what concerns
them. A FlowRunSubscribed says that what came after its `after` is void and comes anew."""


class Phase(Enum):
    WANTED = auto()
    """To be subscribed to."""
    ASKED = auto()
    """The server has not said yet where frames go on: until then none is taken."""
    LISTENING = auto()
    PAUSED = auto()
    """The application is behind; its frames wait in the log, not here."""


class Following:
    """The cursor of one followed run."""

    def __init__(
        self,
        run_id: RunId,
        *,
        detail: Detail = Detail.FULL,
        after: Cursor | None = None,
        tail: int | None = None,
    ) -> None:
        self.run_id = run_id
        self.phase = Phase.WANTED
        self.gen = after.gen if after else Gen(1)
        self.seq = Seq(after.seq if after else 0)
        self._detail = detail
        self._tail = None if after else tail
        self._mark: Seq | None = None
        """The cursor at the heartbeat before."""
        self._gap: Seq | None = None
        """The cursor at the last gap: one that stays there waits for a heartbeat."""

    def request(self, id: str) -> Subscribe:
        self.phase = Phase.ASKED
        self._mark = None
        after = Cursor(gen=self.gen, seq=self.seq) if self._tail is None else None
        return Subscribe(
            id=id, run_id=self.run_id, after=after, tail=self._tail, detail=self._detail
        )

    def lost(self) -> None:
        """The connection is gone, and the subscription with it."""
        if self.phase is not Phase.PAUSED:
            self.phase = Phase.WANTED

    def take(self, frame: ServerFrame | UnknownFrame) -> FollowEvent | None:
        """Take a frame of this run: what the application is to hear of it. Raises BadMessage when
        frames go on after the cursor: those between would be lost."""
        match frame:
            case _ if self.phase is Phase.PAUSED:
                return None
            case FlowRunSubscribed():
                return self._begin(frame)
            case FlowRunReset():
                self._listen(frame.gen, frame.head)
                return frame
            case _ if self.phase is not Phase.LISTENING:
                return None
            case FlowRunCaughtUp(seq=seq) if seq > self.seq:
                self._missed()
            case FlowRunCaughtUp():
                return frame
            case FlowRunLagging():
                return frame
            case UnknownFrame(seq=int(seq)):
                self._count(seq)
            case Frame():
                return frame if self._count(frame.seq) else None
        return None

    def check(self, head: Seq | None) -> None:
        """A heartbeat names the last frame that was sent. One that is past the cursor twice, with
        nothing in between, was lost; a single time it may be on its way."""
        if self.phase is Phase.PAUSED:
            return
        still = self._mark == self.seq
        self._mark = self.seq
        if still and (self.phase is Phase.ASKED or head is None or head > self.seq):
            self.phase = Phase.WANTED

    def _begin(self, frame: FlowRunSubscribed) -> FlowRunSubscribed | None:
        had = self.seq
        if frame.after > had and self._tail is None:
            raise BadMessage(f"frames of {self.run_id} go on after {frame.after}, not {had}")
        self._listen(frame.gen, frame.after)
        return frame if frame.after < had else None

    def _listen(self, gen: Gen, seq: Seq) -> None:
        self._tail = None
        self.phase = Phase.LISTENING
        self.gen, self.seq = gen, seq

    def _count(self, seq: Seq) -> bool:
        """Whether this is a frame to take."""
        if seq <= self.seq:
            return False  # a double
        if self._detail is Detail.FULL and seq != self.seq + 1:
            self._missed()
            return False
        self.seq = seq
        return True

    def _missed(self) -> None:
        if self._gap != self.seq:
            self.phase = Phase.WANTED
        self._gap = self.seq
