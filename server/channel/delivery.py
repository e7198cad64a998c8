"""From the log to one socket: each subscription is a cursor that reads the ring or the log."""

from collections.abc import Callable

from protocol.commands import Subscribe
from protocol.connection import Connection, Following, LogState, start_after
from protocol.errors import ErrorCode, ProtocolError
from protocol.frames import (
    FlowRunHeartbeat,
    FlowRunLagging,
    FlowRunReset,
    FlowRunSubscribed,
)
from protocol.ids import RunId, Seq
from server.channel.framing import PAGE_FRAMES, batch_of
from server.channel.outbox import Outbox
from server.ports import Batch, Hub, LogHead, RunRecord, Store


class Delivery:
    """The subscriptions of one socket. `wake` is called when there may be something to send."""

    def __init__(
        self, connection: Connection, *, store: Store, hub: Hub, wake: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._store = store
        self._hub = hub
        self._wake = wake
        self._lagging: set[RunId] = set()

    async def follow(
        self, record: RunRecord, command: Subscribe
    ) -> tuple[FlowRunSubscribed | FlowRunReset, Callable[[], None]]:
        """Register first, then read the head: nothing can fall between.

        Returns the answer, and what begins the frames: to be called when the answer is queued, so
        that none of them can overtake it. Subscribing again moves the cursor.
        """
        run_id = record.run.id
        self._connection.check_room(run_id)
        self._hub.listen(run_id, self._wake)
        log = await self._log(run_id)
        state = LogState(log.gen, log.head, log.floor, log.bases)
        start = start_after(state, after=command.after, tail=command.tail)
        sent = log.head if start is None else start
        following = Following(sent=sent, target=log.head, detail=command.detail)
        answer: FlowRunSubscribed | FlowRunReset
        if start is None:
            latest = await self._store.get(run_id)
            answer = FlowRunReset(
                run_id=run_id,
                reason="expired",
                snapshot=latest.run if latest else record.run,
                gen=log.gen,
                head=log.head,
            )
        else:
            head = log.outline_head if following.outline else log.head
            answer = FlowRunSubscribed(run_id=run_id, gen=log.gen, head=head, after=start)
        return answer, lambda: self._begin(run_id, following)

    def _begin(self, run_id: RunId, following: Following) -> None:
        self._connection.following[run_id] = following
        self._wake()

    def unfollow(self, run_id: RunId) -> None:
        if self._connection.following.pop(run_id, None) is not None:
            self._hub.forget(run_id, self._wake)

    def close(self) -> None:
        for run_id in list(self._connection.following):
            self.unfollow(run_id)

    async def pump(self, outbox: Outbox) -> bool:
        """Put one page of every subscription into the outbox in turn, flushing it when it is full;
        True when more may be there already."""
        more = False
        for run_id, following in list(self._connection.following.items()):
            more |= await self._pump_one(run_id, following, outbox)
            if outbox.full:
                await outbox.flush()
        return more

    async def _pump_one(self, run_id: RunId, following: Following, outbox: Outbox) -> bool:
        batch = self._hub.after(run_id, following.sent, outline=following.outline)
        if batch is None:
            # What is ready does not wait for the disk.
            await outbox.flush()
            batch = await self._from_log(run_id, following, outbox)
        else:
            self._lagging.discard(run_id)
            following.take_all(batch.last, batch.shown)
        outbox.batch(batch)
        caught_up = following.caught_up(run_id)
        if caught_up is not None:
            outbox.control(caught_up)
        return batch.cut

    async def _from_log(self, run_id: RunId, following: Following, outbox: Outbox) -> Batch:
        """A page from the log; a reader that fell out of the ring is told so, once."""
        sent = following.sent
        # Read before the page: what is committed in between must not be skipped.
        head = (await self._log(run_id)).head
        entries = await self._store.read(
            run_id, after=following.sent, limit=PAGE_FRAMES, outline=following.outline
        )
        if not entries and following.outline:
            following.skip_to(head)
        if entries and following.live and run_id not in self._lagging:
            self._lagging.add(run_id)
            outbox.control(FlowRunLagging(run_id=run_id, behind=head - following.sent))
        page = list(following.take(entries))
        # Only an empty page says that the log has ended.
        return batch_of(sent, page, outline=following.outline, cut=bool(entries))

    async def heartbeat(self, at: str) -> FlowRunHeartbeat:
        """The head of every followed run, so that a loss at a quiet tail is found."""
        heads: dict[RunId, Seq] = {}
        for run_id, following in list(self._connection.following.items()):
            log = await self._log(run_id)
            heads[run_id] = log.outline_head if following.outline else log.head
        return FlowRunHeartbeat(heads=heads, at=at)

    async def _log(self, run_id: RunId) -> LogHead:
        log = await self._store.log(run_id)
        if log is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "run not found", field="run_id")
        return log
