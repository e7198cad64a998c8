"""How fast one user may do a thing: a bucket of tokens for each."""

from math import ceil

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import UserId
from server.ports import Clock

MANY_USERS = 1_000
"""Past so many, full buckets are thrown away: they would be made anew as full."""
WHOLE = 1 - 1e-9
"""As much of a token as counts as one: whoever waited as told must not fail by a rounding."""


class Rates:
    """`burst` at once, then `per_second`. `what` names the thing in the refusal, as "launches"."""

    def __init__(self, what: str, *, burst: int, per_second: float, clock: Clock) -> None:
        self._what = what
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._buckets: dict[UserId, tuple[float, float]] = {}
        """The tokens of each user, and when they were counted."""
        self.refused = 0

    def take(self, user: UserId) -> None:
        """Take a token. Raises ProtocolError when the user has none, with the time to wait."""
        now = self._clock.monotonic()
        tokens = self._tokens(user, now)
        if tokens < WHOLE:
            self.refused += 1
            raise ProtocolError(
                ErrorCode.RATE_LIMITED,
                f"more than {self._per_second:g} {self._what} a second",
                hint="wait, then ask again",
                retry_after_ms=ceil((1 - tokens) / self._per_second * 1000),
            )
        if len(self._buckets) >= MANY_USERS:
            self._buckets = {
                it: kept
                for it, kept in self._buckets.items()
                if self._tokens(it, now) < self._burst
            }
        self._buckets[user] = (tokens - 1, now)

    def _tokens(self, user: UserId, now: float) -> float:
        tokens, counted = self._buckets.get(user, (float(self._burst), now))
        return min(float(self._burst), tokens + (now - counted) * self._per_second)
