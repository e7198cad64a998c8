"""A bucket of tokens: so much at once, then so fast. It knows no clock but the `now` of a call."""

from math import ceil

WHOLE = 1 - 1e-7
"""A token, as far as sums of floats go: who has waited as long as told must not be refused."""


class Bucket:
    """Full at first: `burst` tokens, refilled at `per_second`."""

    __slots__ = ("_burst", "_counted", "_left", "_per_second")

    def __init__(self, burst: float, per_second: float, *, now: float) -> None:
        self._burst = self._left = float(burst)
        self._per_second = per_second
        self._counted = now

    def left(self, now: float) -> float:
        """How many tokens are there now."""
        self._left = min(self._burst, self._left + (now - self._counted) * self._per_second)
        self._counted = now
        return self._left

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        if self.left(now) < WHOLE:
            return False
        self._left -= 1
        return True

    def wait_ms(self, now: float) -> int:
        """Milliseconds until there is a token; 0 when there is one."""
        left = self.left(now)
        return 0 if left >= WHOLE else ceil((1 - left) / self._per_second * 1000)
