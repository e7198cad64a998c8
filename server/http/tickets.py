"""Single-use tickets: they sign in a socket that can send neither a header nor a cookie."""

import hashlib
import secrets
from math import ceil

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import UserId
from server.ports import Clock

TICKET_SECONDS = 30.0
MAX_OUTSTANDING = 32
"""Tickets of one user that wait for their sockets, where the settings do not say otherwise."""


class Tickets:
    """The tickets that are outstanding, in memory alone: a restart makes all of them worthless."""

    def __init__(self, clock: Clock, *, most: int = MAX_OUTSTANDING) -> None:
        self._clock = clock
        self._most = most
        self._outstanding: dict[bytes, tuple[UserId, float]] = {}

    def issue(self, user: UserId) -> str:
        """A new ticket, good for one socket of this user within TICKET_SECONDS.

        Raises ProtocolError when too many of the user's are outstanding.
        """
        now = self._clock.monotonic()
        self._forget_expired(now)
        mine = [expires for owner, expires in self._outstanding.values() if owner == user]
        if len(mine) >= self._most:
            raise ProtocolError(
                ErrorCode.RATE_LIMITED,
                f"{len(mine)} tickets wait to be used",
                hint="use a ticket as soon as it is there",
                retry_after_ms=ceil((min(mine) - now) * 1000),
            )
        ticket = secrets.token_urlsafe(32)
        self._outstanding[_digest(ticket)] = (user, now + TICKET_SECONDS)
        return ticket

    def redeem(self, ticket: str) -> UserId:
        """The user of a ticket, which is used up now; raises ProtocolError.

        Used, expired and invented tickets are refused alike.
        """
        user, expires = self._outstanding.pop(_digest(ticket), (None, 0.0))
        if user is None or expires <= self._clock.monotonic():
            raise ProtocolError(
                ErrorCode.UNAUTHENTICATED,
                "the ticket is not good",
                hint="POST /api/ws-ticket for a new one; each is good once, for 30 s",
            )
        return user

    def _forget_expired(self, now: float) -> None:
        # All live equally long, so the oldest come first.
        for digest, (_, expires) in list(self._outstanding.items()):
            if expires > now:
                return
            del self._outstanding[digest]


def _digest(ticket: str) -> bytes:
    """What is kept and looked up. How long the look-up takes tells nothing of a ticket: whoever
    guesses cannot choose the digest of the guess."""
    return hashlib.sha256(ticket.encode()).digest()
