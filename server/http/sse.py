"""The twin of the socket for one run: the same frames as server-sent events.

It reads through the socket's own `Delivery`, so that both keep the same promises. The `id` of an
event is the cursor that a reader has once it took the event, `gen:seq`: a stored frame, and what
moves the cursor (`flow_run_subscribed`, `flow_run_reset`), have one. Other events have none.
"""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from protocol.commands import Subscribe
from protocol.connection import Connection
from protocol.errors import CloseCode, ErrorCode, ProtocolError
from protocol.frames import (
    FlowRunDraining,
    FlowRunReset,
    FlowRunSubscribed,
)
from protocol.ids import Seq, UserId
from protocol.rest import LogQuery, parse_log_query
from server.channel.delivery import Delivery
from server.http.asking import guest_of, run_of, signed_in
from server.http.event_outbox import EventOutbox
from server.http.sign_in import SignIn
from server.http.streamed import Outlet, Streamed
from server.limits import HEARTBEAT_SECONDS, LimitSettings, wire_limits
from server.ports import Clock, Hub, RunRecord, Store
from server.stopping import DRAIN_SECONDS, Gate, return_times
from server.users.audit import Deed

HEARTBEAT = b": heartbeat\n\n"
ONE_RUN = wire_limits(LimitSettings(subscriptions=1))
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}


class Events:
    """Every open event stream of this server."""

    def __init__(
        self,
        *,
        store: Store,
        hub: Hub,
        clock: Clock,
        sign_in: SignIn,
        gate: Gate,
        limits: LimitSettings,
        stall_seconds: float,
    ) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock
        self._sign_in = sign_in
        self._gate = gate
        self._most = limits.streams_per_user
        self._stall_seconds = stall_seconds
        self._open: dict[Stream, UserId] = {}

    def routes(self) -> list[Route]:
        handler = signed_in(self._sign_in, self.events, Deed.VIEW)
        return [Route("/api/runs/{id}/events", handler, methods=["GET"])]

    async def events(self, request: Request, user: UserId) -> ASGIApp:
        """204 tells an EventSource that the run has ended and that it has everything: without it,
        it would come back for ever."""
        self._gate.check()
        record = await run_of(self._store, request, user)
        query = parse_log_query(request.query_params, request.headers.get("last-event-id"))
        self._check_room(user)
        stream = Stream(record, query, store=self._store, hub=self._hub, clock=self._clock)
        self._open[stream] = user
        try:
            self._sign_in.visits.enter(stream, guest_of(request), stream.dismiss)
            # Again, now that a withdrawal ends the stream.
            await run_of(self._store, request, user)
            await stream.open()
        except BaseException:
            self._release(stream)
            raise
        if stream.nothing_left:
            self._release(stream)
            return Response(status_code=204)
        return Streamed(
            stream.write,
            headers=HEADERS,
            stall_seconds=self._stall_seconds,
            release=lambda: self._release(stream),
        )

    @property
    def count(self) -> int:
        return len(self._open)

    async def drain(self) -> None:
        """Tell every reader that the server stops and when to come back, and end its stream; cut
        off who does not take it. The gate is closed."""
        streams = list(self._open)
        for stream, retry_after_ms in zip(streams, return_times(len(streams)), strict=True):
            stream.stop(retry_after_ms)
        waiting = [asyncio.ensure_future(stream.ended.wait()) for stream in streams]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()
        for stream in list(self._open):
            stream.abort()

    def _check_room(self, user: UserId) -> None:
        self._gate.check()
        if list(self._open.values()).count(user) >= self._most:
            raise ProtocolError(
                ErrorCode.RATE_LIMITED, "too many open event streams", hint="close some of them"
            )

    def _release(self, stream: "Stream") -> None:
        self._open.pop(stream, None)
        self._sign_in.visits.left(stream)
        stream.close()


class Stream:
    """One reader of one run: a cursor, and no queue."""

    def __init__(
        self, record: RunRecord, query: LogQuery, *, store: Store, hub: Hub, clock: Clock
    ) -> None:
        self._record = record
        self._run_id = record.run.id
        self._query = query
        self._store = store
        self._clock = clock
        self._wake = asyncio.Event()
        self._connection = Connection(ONE_RUN, now=clock.monotonic())
        self._delivery = Delivery(self._connection, store=store, hub=hub, wake=self._wake.set)
        self._answer: FlowRunSubscribed | FlowRunReset | None = None
        self._outbox: EventOutbox | None = None
        self._last: Seq | None = None
        """The last frame of the log, when the run had ended as the stream was opened."""
        self._stopping: int | None = None
        """When to come back, in milliseconds: set when the server stops."""
        self._dismissed = False
        self._beat_due = False
        self.ended = asyncio.Event()

    async def open(self) -> None:
        """Register, and read where to start; nothing that is published from here on is missed."""
        after, detail = self._query.after, self._query.detail
        command = Subscribe(id="events", run_id=self._run_id, after=after, detail=detail)
        self._answer, begin = await self._delivery.follow(self._record, command)
        begin()
        # Read after the registration: an end that this does not see is yet to be published.
        latest = await self._store.get(self._run_id)
        if latest is not None and latest.run.status.terminal:
            log = await self._store.log(self._run_id)
            self._last = log.head if log is not None else None

    @property
    def nothing_left(self) -> bool:
        """Whether the reader's cursor is the end of an ended run."""
        after, answer = self._query.after, self._answer
        if after is None or not isinstance(answer, FlowRunSubscribed):
            return False
        return after.seq == answer.after == self._last

    async def write(self, outlet: Outlet) -> None:
        """Write events until the run has ended, or the server stops."""
        if self._dismissed:
            return
        assert self._answer is not None
        outbox = self._outbox = EventOutbox(outlet, self._answer.gen)
        outbox.control(self._answer)
        await outbox.flush()
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(self._beat())
            while not self._over and not self._ending:
                await self._wake.wait()
                self._wake.clear()
                await self._pump(outbox)
            beating.cancel()
        if not self._over and not self._dismissed and self._stopping is not None:
            outbox.raw(f"retry: {self._stopping}\n".encode())
            outbox.control(FlowRunDraining(retry_after_ms=self._stopping))
            await outbox.flush()

    def stop(self, retry_after_ms: int) -> None:
        """End the stream after the page under way."""
        self._stopping = retry_after_ms
        self._wake.set()

    def dismiss(self, code: CloseCode) -> None:
        """End the stream because its reader is signed in no longer: at once, with what it has not
        taken, which it could put off for ever otherwise by taking drop for drop."""
        self._dismissed = True
        self._wake.set()
        if self._outbox is not None:
            self._outbox.drop()

    def abort(self) -> None:
        if self._outbox is not None:
            self._outbox.abort()

    def close(self) -> None:
        self._delivery.close()
        self.ended.set()

    @property
    def _over(self) -> bool:
        sent = self._connection.following[self._run_id].sent
        finished = self._outbox is not None and self._outbox.finished
        return finished or (self._last is not None and sent >= self._last)

    @property
    def _ending(self) -> bool:
        return self._dismissed or self._stopping is not None

    async def _pump(self, outbox: EventOutbox) -> None:
        if self._beat_due:
            self._beat_due = False
            outbox.raw(HEARTBEAT)
        more = True
        while more and not self._ending:
            more = self._delivery.pump(outbox)
            await outbox.flush()

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(HEARTBEAT_SECONDS)
            self._beat_due = True
            self._wake.set()
