"""What waits between the connection and an application that reads: bounded, whoever is slow."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from protocol.commands import SubscribeIndex
from protocol.frames import FlowRunIndex
from protocol.ids import ProjectId
from server.client.cursor import FollowEvent, Following, Phase

MAX_EVENTS = 1_024
"""What may wait for one reader; a slower one reads on from the server's log."""

_Event = TypeVar("_Event")


class Reader(Generic[_Event]):
    """The events of one subscription. An error ends it, after the last event."""

    def __init__(self, subject: "Following | RunList") -> None:
        self.subject = subject
        self._events: deque[_Event] = deque()
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self._events) >= MAX_EVENTS

    def put(self, event: _Event) -> None:
        self._events.append(event)
        self._changed.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._changed.set()

    async def next(self, go_on: Callable[[], None]) -> _Event:
        """The next event; raises what the subscription failed with.

        `go_on` is called when the reader has caught up with what was kept for it, and the rest,
        which was left in the log, is wanted.
        """
        while not self._events:
            if self._error is not None:
                raise self._error
            if self.subject.phase is Phase.PAUSED:
                self.subject.phase = Phase.WANTED
                go_on()
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()


class RunList:
    """The subscription to the run list. It has no cursor: all rows come again."""

    def __init__(self, project_id: ProjectId | None) -> None:
        self.phase = Phase.WANTED
        self._project_id = project_id

    def request(self, id: str) -> SubscribeIndex:
        self.phase = Phase.ASKED
        return SubscribeIndex(id=id, project_id=self._project_id)

    def lost(self) -> None:
        """The connection is gone, and the subscription with it."""
        if self.phase is not Phase.PAUSED:
            self.phase = Phase.WANTED


AnyReader = Reader[FollowEvent] | Reader[FlowRunIndex]
