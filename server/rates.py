"""How fast one user may do a thing: a bucket of tokens for each."""

from protocol.bucket import Bucket
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import UserId
from server.ports import Clock

MANY_USERS = 1_000
"""Past so many, full buckets are thrown away: they would be made anew as full."""


class Rates:
    """`burst` at once, then `per_second`. `what` names the thing in the refusal, as "launches"."""

    def __init__(self, what: str, *, burst: int, per_second: float, clock: Clock) -> None:
        self._what = what
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._buckets: dict[UserId, Bucket] = {}
        self.refused = 0

    def take(self, user: UserId) -> None:
        """Take a token. Raises ProtocolError when the user has none, with the time to wait."""
        now = self._clock.monotonic()
        bucket = self._bucket(user, now)
        if not bucket.take(now):
            self.refused += 1
            raise ProtocolError(
                ErrorCode.RATE_LIMITED,
                f"more than {self._per_second:g} {self._what} a second",
                hint="wait, then ask again",
                retry_after_ms=bucket.wait_ms(now),
            )

    def _bucket(self, user: UserId, now: float) -> Bucket:
        found = self._buckets.get(user)
        if found is not None:
            return found
        if len(self._buckets) >= MANY_USERS:
            self._buckets = {
                it: bucket for it, bucket in self._buckets.items() if bucket.left(now) < self._burst
            }
        found = self._buckets[user] = Bucket(self._burst, self._per_second, now=now)
        return found
