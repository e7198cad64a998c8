"""The live run list of one socket: it keeps no rows, only which of them are to be read again."""

from collections.abc import Callable, Sequence

from protocol.codec import encode_frame
from protocol.frames import FlowRunIndex
from protocol.ids import ProjectId, RunId, UserId
from protocol.resources import IndexRow
from protocol.rest import LIST_LIMIT
from server.channel.fetching import Fetch
from server.channel.outbox import Outbox
from server.ports import Hub, Store

READ_ROWS = 20
"""Of one read: a row carries its run's whole input."""


class View:
    """What one subscription has still to read, and what it has told."""

    def __init__(self, user: UserId, project_id: ProjectId | None) -> None:
        self.user = user
        self.project_id = project_id
        self.before: RunId | None = None
        self.listed = 0
        """Rows of the list that have been read, newest first; the next are older than `before`."""
        self.changed: dict[RunId, None] = {}
        self.round = 0
        """How often it has begun from the newest."""
        self.told: dict[RunId, int] = {}
        """The hash of each row as it was sent last: what looks the same is not sent again."""

    @property
    def listing(self) -> bool:
        return self.listed < LIST_LIMIT

    def note(self, run_id: RunId) -> None:
        """A reader that is so slow that a whole list has changed meanwhile reads it anew."""
        self.changed[run_id] = None
        if len(self.changed) > LIST_LIMIT:
            self.changed.clear()
            self.before, self.listed = None, 0
            self.round += 1

    def taken(self, rows: Sequence[IndexRow], *, round: int) -> None:
        """These are the next of the list; fewer than were asked for are its end. What was asked for
        in an earlier round says nothing of this one."""
        if round != self.round:
            return
        self.listed += len(rows) if len(rows) == READ_ROWS else LIST_LIMIT
        self.before = rows[-1].run.id if rows else None

    def news(self, rows: Sequence[IndexRow]) -> list[FlowRunIndex]:
        """The frames of those that are not as they were told."""
        frames = [FlowRunIndex(row=row, project_id=row.run.project_id) for row in rows]
        return [frame for frame in frames if self._differs(frame)]

    def _differs(self, frame: FlowRunIndex) -> bool:
        run_id, now = frame.row.run.id, hash(encode_frame(frame))
        before = self.told.pop(run_id, None)
        self.told[run_id] = now
        if len(self.told) > 2 * LIST_LIMIT:
            del self.told[next(iter(self.told))]
        return now != before


class Index:
    """At most one view. `wake` is called when there may be something to send."""

    def __init__(self, *, store: Store, hub: Hub, wake: Callable[[], None]) -> None:
        self._store = store
        self._hub = hub
        self._wake = wake
        self._view: View | None = None
        self._rows: Fetch[tuple[View, Sequence[IndexRow]]] = Fetch(wake)

    def follow(self, user: UserId, project_id: ProjectId | None) -> None:
        """Register first, then read: what changes meanwhile is read again. Replaces the view that
        there was."""
        self._view = View(user, project_id)
        self._hub.watch(self._note)
        self._wake()

    def unfollow(self) -> None:
        self._view = None
        self._hub.unwatch(self._note)

    def close(self) -> None:
        self.unfollow()
        self._rows.close()

    def pump(self, outbox: Outbox) -> None:
        """Put the rows that were read into the outbox, and begin to read the next ones. Raises
        StoreUnavailable."""
        if self._rows.ready:
            view, rows = self._rows.take()
            if view is self._view:
                for frame in view.news(rows):
                    outbox.control(frame)
        view_now = self._view
        if view_now is not None and self._rows.free and (view_now.listing or view_now.changed):
            self._rows.begin(self._read(view_now))

    def _note(self, run_id: RunId) -> None:
        if self._view is not None:
            self._view.note(run_id)
            self._wake()

    async def _read(self, view: View) -> tuple[View, Sequence[IndexRow]]:
        if view.listing:
            round = view.round
            rows = await self._visible(view, before=view.before, limit=READ_ROWS)
            view.taken(rows, round=round)
            return view, rows
        # Taken out first: one that changes while it is read is read again.
        only = list(view.changed)[:READ_ROWS]
        for run_id in only:
            del view.changed[run_id]
        return view, await self._visible(view, only=only, limit=READ_ROWS)

    async def _visible(
        self,
        view: View,
        *,
        before: RunId | None = None,
        only: Sequence[RunId] | None = None,
        limit: int,
    ) -> list[IndexRow]:
        """What the user may see is decided here, by the store's filter, and nowhere else."""
        return await self._store.index(
            view.user, project_id=view.project_id, before=before, only=only, limit=limit
        )
