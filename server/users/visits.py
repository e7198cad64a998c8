"""Who is here now: every open socket and stream, and its end when its sign-in ends."""

from collections.abc import Callable, Hashable
from math import inf
from typing import NamedTuple

from protocol.errors import CloseCode
from server.logs import logger
from server.ports import Clock
from server.users.directory import Directory, Guest

log = logger(__name__)

EXPIRY_SECONDS = 1.0
"""So long an expired visit may still last."""


class Visit(NamedTuple):
    guest: Guest
    leave: Callable[[CloseCode], None]
    """Ends it soon; called once, and waits for nothing."""


class Visits:
    """Ends what must not go on. It owns no socket: whoever enters one says how it is ended."""

    def __init__(self, directory: Directory, *, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._visits: dict[Hashable, Visit] = {}
        self._soonest = inf
        """None expires before that."""

    def enter(self, key: Hashable, guest: Guest, leave: Callable[[CloseCode], None]) -> None:
        """Keep an eye on a visit until `left(key)`. One whose sign-in has ended meanwhile, since
        it was checked, ends at once."""
        self._visits[key] = Visit(guest, leave)
        self._soonest = min(self._soonest, _expiry(guest))
        self._check(key)

    def left(self, key: Hashable) -> None:
        """The visit is over; one that never began is none."""
        self._visits.pop(key, None)

    def changed(self, directory: Directory) -> None:
        """Go by these people from now on: end the visits of whoever was revoked (4401), and of
        whoever lost a project (4403)."""
        before, self._directory = self._directory, directory
        for key, visit in list(self._visits.items()):
            user = visit.guest.user
            if before.projects(user) - directory.projects(user) and directory.active(user):
                self._end(key, CloseCode.FORBIDDEN)
            else:
                self._check(key)

    async def watch(self) -> None:
        """End what expires, for ever."""
        while True:
            await self._clock.sleep(EXPIRY_SECONDS)
            now = self._clock.now().timestamp()
            if self._soonest > now:
                continue  # a look at thousands each second is most of an idle server's work
            for key, (guest, _) in list(self._visits.items()):
                if _expiry(guest) <= now:
                    self._end(key, CloseCode.UNAUTHENTICATED)
            self._soonest = min((_expiry(it.guest) for it in self._visits.values()), default=inf)

    def _check(self, key: Hashable) -> None:
        now = self._clock.now().timestamp()
        code = self._directory.ended(self._visits[key].guest, now=now)
        if code is not None:
            self._end(key, code)

    def _end(self, key: Hashable, code: CloseCode) -> None:
        visit = self._visits.pop(key)
        log.info("visit_ended", user=visit.guest.user, way=visit.guest.way, code=int(code))
        visit.leave(code)


def _expiry(guest: Guest) -> float:
    return inf if guest.expires is None else guest.expires
