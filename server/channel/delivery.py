"""From the log to one socket: each subscription is a cursor that reads the ring or the log.

A run that has something to send is *due*, and is served a page when its turn comes. One whose
reader the ring does not reach is *behind*: its pages come out of the log, one at a time for the
whole socket. So no run waits for another one, and no writer waits for the disk.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from protocol.commands import Detail, Subscribe
from protocol.connection import Connection, Following, LogState, start_after
from protocol.errors import ErrorCode, ProtocolError
from protocol.frames import (
    FlowRunHeartbeat,
    FlowRunLagging,
    FlowRunReset,
    FlowRunSubscribed,
)
from protocol.ids import RunId, Seq
from protocol.resources import Run
from server.channel.fetching import Fetch
from server.channel.framing import batch_of
from server.channel.index import Index
from server.channel.outbox import Outbox
from server.channel.turns import Turns
from server.ports import Batch, Hub, LogHead, Page, RunRecord, Store, StoreUnavailable


class Expired(NamedTuple):
    """The frames after a cursor have gone while it was behind."""

    log: LogHead
    snapshot: Run


class Fetched(NamedTuple):
    """What was read for a subscription, which may have been replaced meanwhile."""

    run_id: RunId
    following: Following
    found: Batch | Expired


class Delivery:
    """The subscriptions of one socket. `wake` is called when there may be something to send."""

    def __init__(
        self,
        connection: Connection,
        *,
        store: Store,
        hub: Hub,
        wake: Callable[[], None],
        express: Callable[[Batch], bool] = lambda batch: False,
    ) -> None:
        self._connection = connection
        self._store = store
        self._hub = hub
        self._wake = wake
        self._express = express
        self.index = Index(store=store, hub=hub, wake=wake)
        self.turns = Turns()
        self._opening: Counter[RunId] = Counter()
        """Subscriptions that are registered and not begun."""
        self._due: dict[RunId, None] = {}
        self._behind: dict[RunId, None] = {}
        self._lagging: set[RunId] = set()
        self._page: Fetch[Fetched] = Fetch(wake)
        self._reading: RunId | None = None

    # --- subscriptions --------------------------------------------------------------------------

    def check_room(self) -> None:
        """Raise ProtocolError when a further run would be one too many."""
        self._connection.check_room(RunId(""), self._opening)

    async def follow(
        self, record: RunRecord, command: Subscribe
    ) -> tuple[FlowRunSubscribed | FlowRunReset, Callable[[], None]]:
        """Register first, then read the head: nothing can fall between.

        Returns the answer, and what begins the frames: to be called when the answer is queued, so
        that none of them can overtake it. Subscribing again moves the cursor.
        """
        run_id = record.run.id
        self._connection.check_room(run_id, self._opening)
        self._opening[run_id] += 1
        self._hub.listen(run_id, self._published)
        try:
            log = await self._log(run_id)
            state = LogState(log.gen, log.head, log.floor, log.bases)
            start = start_after(state, after=command.after, tail=command.tail)
            following = Following(
                sent=log.head if start is None else start,
                head=log.head,
                shown_head=log.outline_head if command.detail is Detail.OUTLINE else log.head,
                detail=command.detail,
            )
            answer: FlowRunSubscribed | FlowRunReset
            if start is None:
                answer = self._reset(Expired(log, await self._snapshot(record.run)))
            else:
                answer = FlowRunSubscribed(
                    run_id=run_id, gen=log.gen, head=following.shown_head, after=start
                )
        except BaseException:
            self._opened(run_id)
            raise
        return answer, lambda: self._begin(run_id, following)

    def _begin(self, run_id: RunId, following: Following) -> None:
        self._connection.following[run_id] = following
        self._lagging.discard(run_id)
        self._opened(run_id)
        self._note(run_id)

    def unfollow(self, run_id: RunId) -> None:
        self._connection.following.pop(run_id, None)
        self._forget(run_id)

    def close(self) -> None:
        self._page.close()
        self.index.close()
        self._opening.clear()
        for run_id in list(self._connection.following):
            self.unfollow(run_id)

    def _opened(self, run_id: RunId) -> None:
        self._opening[run_id] -= 1
        self._forget(run_id)

    def _forget(self, run_id: RunId) -> None:
        """Listen no longer, unless somebody else on this socket still wants it."""
        if self._opening[run_id] <= 0:
            del self._opening[run_id]
            if run_id not in self._connection.following:
                self._hub.forget(run_id, self._published)

    def _published(self, run_id: RunId) -> None:
        """Who has all that came before, and whose socket takes it, gets it at once."""
        following = self._connection.following.get(run_id)
        if following is not None and following.live and not self._due and not self._behind:
            batch = self._hub.after(run_id, following.sent, outline=following.outline)
            if batch is not None and not batch.cut and self._express(batch):
                self._lagging.discard(run_id)
                following.take(batch.last, batch.shown)
                return
        self._note(run_id)

    def _note(self, run_id: RunId) -> None:
        self._due[run_id] = None
        self._wake()

    def heartbeat(self, at: str) -> FlowRunHeartbeat:
        """The head of every followed run, so that a loss at a quiet tail is found."""
        heads = {
            run_id: self._head(run_id, following, outline=following.outline)
            for run_id, following in self._connection.following.items()
        }
        return FlowRunHeartbeat(heads=heads, at=at)

    def _head(self, run_id: RunId, following: Following, *, outline: bool) -> Seq:
        """Without a look at the store: what was there when it began, and what came since. Nobody
        else writes the log, and folding and expiry leave its head where it is."""
        began = following.shown_head if outline else following.head
        return max(began, self._hub.head(run_id, outline=outline))

    # --- sending --------------------------------------------------------------------------------

    def pump(self, outbox: Outbox) -> bool:
        """Put into the outbox what is ready: pages of the runs that are due, each in its turn,
        until it is full, and the page that came out of the log. True when more is ready already.

        Raises StoreUnavailable when the log cannot be read.
        """
        turns = len(self._due)
        while self._due and turns and not outbox.full:
            run_id = next(iter(self._due))
            del self._due[run_id]
            self._serve(run_id, outbox)
            turns -= 1
        if self._page.ready:
            self._serve_page(self._page.take(), outbox)
        self.index.pump(outbox)
        self._fetch()
        return bool(self._due)

    def _serve(self, run_id: RunId, outbox: Outbox) -> None:
        following = self._connection.following.get(run_id)
        if following is None or run_id in self._behind or run_id == self._reading:
            return
        if following.sent < self._head(run_id, following, outline=False):
            batch = self._hub.after(run_id, following.sent, outline=following.outline)
            if batch is None:
                self._fall_behind(run_id, following, outbox)
                return
            self._lagging.discard(run_id)
            self._send(batch, following, outbox)
            if batch.cut:
                self._due[run_id] = None
        self._say_caught_up(run_id, following, outbox)

    def _fall_behind(self, run_id: RunId, following: Following, outbox: Outbox) -> None:
        """A reader that fell out of the ring is told so, once."""
        self._behind[run_id] = None
        if following.live and run_id not in self._lagging:
            self._lagging.add(run_id)
            behind = self._head(run_id, following, outline=False) - following.sent
            outbox.control(FlowRunLagging(run_id=run_id, behind=behind))

    def _serve_page(self, fetched: Fetched, outbox: Outbox) -> None:
        run_id, following, found = fetched
        self._reading = None
        if self._connection.following.get(run_id) is not following:
            self._due[run_id] = None
            return
        if isinstance(found, Expired):
            following.skip(found.log.head)
            outbox.control(self._reset(found))
        else:
            self._send(found, following, outbox)
        self._line_up(run_id, following)

    def _line_up(self, run_id: RunId, following: Following) -> None:
        """Wait for the next turn, behind the others: for the log as long as the ring is ahead."""
        ahead = following.sent < self._head(run_id, following, outline=False)
        if ahead and self._hub.after(run_id, following.sent, outline=following.outline) is None:
            self._behind[run_id] = None
        else:
            self._due[run_id] = None

    def _send(self, batch: Batch, following: Following, outbox: Outbox) -> None:
        following.take(batch.last, batch.shown)
        outbox.batch(batch)

    def _say_caught_up(self, run_id: RunId, following: Following, outbox: Outbox) -> None:
        caught_up = following.caught_up(run_id)
        if caught_up is not None:
            outbox.control(caught_up)

    # --- the log --------------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Begin to read the next page of the run that waits the longest."""
        while self._behind and self._page.free:
            run_id = next(iter(self._behind))
            del self._behind[run_id]
            following = self._connection.following.get(run_id)
            if following is not None:
                self._reading = run_id
                self._page.begin(self._read(run_id, following))

    async def _read(self, run_id: RunId, following: Following) -> Fetched:
        after, outline = following.sent, following.outline

        def make(page: Page) -> Batch:
            return batch_of(after, page.entries, outline=outline, cut=False, through=page.through)

        batch = await self._store.page(run_id, after=after, outline=outline, make=make)
        if batch.last > after:
            return Fetched(run_id, following, batch)
        return Fetched(run_id, following, await self._expired(run_id, after))

    async def _expired(self, run_id: RunId, after: Seq) -> Expired:
        """Nothing follows a cursor that is not at the head: its frames must have expired."""
        log = await self._log(run_id)
        record = await self._store.get(run_id)
        if record is None or log.floor <= after:
            raise StoreUnavailable(f"the log of run {run_id} has a hole after {after}")
        return Expired(log, record.run)

    async def _snapshot(self, run: Run) -> Run:
        latest = await self._store.get(run.id)
        return latest.run if latest else run

    def _reset(self, expired: Expired) -> FlowRunReset:
        return FlowRunReset(
            run_id=expired.snapshot.id,
            reason="expired",
            snapshot=expired.snapshot,
            gen=expired.log.gen,
            head=expired.log.head,
        )

    async def _log(self, run_id: RunId) -> LogHead:
        log = await self._store.log(run_id)
        if log is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "run not found", field="run_id")
        return log
