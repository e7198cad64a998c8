"""The port to time and names, which come in from outside."""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Ids(Protocol):
    def uuid(self) -> str:
        """A new UUID, in lower case."""
        ...

    def marker(self) -> str:
        """A new unguessable word of letters and digits, to fence untrusted text with."""
        ...
