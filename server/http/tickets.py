"""Single-use tickets: they sign in a socket that can send neither a header nor a cookie."""

from collections.abc import Callable
from math import ceil

import msgspec

from protocol.errors import ErrorCode, ProtocolError
from server.ports import Clock
from server.users.directory import Guest, Way
from server.users.tokens import digest_of, new_token

TICKET_SECONDS = 30.0
MAX_OUTSTANDING = 32
"""Tickets of one user that wait for their sockets, where the settings do not say otherwise."""


class Tickets:
    """The tickets that are outstanding, in memory alone: a restart makes all of them worthless."""

    def __init__(
        self,
        clock: Clock,
        stands: Callable[[Guest], bool] = lambda guest: True,
        *,
        most: int = MAX_OUTSTANDING,
    ) -> None:
        """`stands` says whether a sign-in still holds: a ticket dies with what it came from."""
        self._clock = clock
        self._stands = stands
        self._most = most
        self._outstanding: dict[bytes, tuple[Guest, float]] = {}

    def issue(self, guest: Guest) -> str:
        """A new ticket, good for one socket of this guest within TICKET_SECONDS.

        Raises ProtocolError when too many of the user's are outstanding.
        """
        now = self._clock.monotonic()
        self._forget_expired(now)
        held = self._outstanding.values()
        mine = [expires for owner, expires in held if owner.user == guest.user]
        if len(mine) >= self._most:
            raise ProtocolError(
                ErrorCode.RATE_LIMITED,
                f"{len(mine)} tickets wait to be used",
                hint="use a ticket as soon as it is there",
                retry_after_ms=ceil((min(mine) - now) * 1000),
            )
        ticket = new_token()
        self._outstanding[digest_of(ticket)] = (guest, now + TICKET_SECONDS)
        return ticket

    def redeem(self, ticket: str, *, peer: str) -> Guest:
        """Whoever holds a ticket, which is used up now, at this address; raises ProtocolError.

        Used, expired, withdrawn and invented tickets are refused alike.
        """
        guest, expires = self._outstanding.pop(digest_of(ticket), (None, 0.0))
        if guest is None or expires <= self._clock.monotonic() or not self._stands(guest):
            raise ProtocolError(
                ErrorCode.UNAUTHENTICATED,
                "the ticket is not good",
                hint="POST /api/ws-ticket for a new one; each is good once, for 30 s",
            )
        return msgspec.structs.replace(guest, way=Way.TICKET, peer=peer)

    def _forget_expired(self, now: float) -> None:
        # All live equally long, so the oldest come first.
        for digest, (_, expires) in list(self._outstanding.items()):
            if expires > now:
                return
            del self._outstanding[digest]
