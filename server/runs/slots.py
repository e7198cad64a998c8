"""Limits shared fairly: first who was served longest ago, then who waits longest.

A limit has slots: a run's own `parallel`, an endpoint's, the machine's memory. A step passes its
limits one after the other, in a line.
"""

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from protocol.ids import UserId
from protocol.resources import Limit


class Slots:
    """At most `capacity` holders at once. The queue is bounded by the runs that may be live."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = capacity
        self._waiting: list[Place] = []
        self._age = count()
        self._served: dict[UserId, int] = {}
        self._turns = count(1)

    @property
    def full(self) -> bool:
        """Whether a newcomer would wait."""
        return self._free <= 0

    def resize(self, capacity: int) -> None:
        """Change the capacity; holders keep their slots."""
        self._free += capacity - self.capacity
        self.capacity = capacity
        self._serve()

    def join(self, user: UserId) -> "Place":
        """Take a slot, or else a place in the queue; `Place.leave` gives either back."""
        place = Place(self, user, next(self._age))
        self._waiting.append(place)
        self._serve()
        return place

    def number(self, place: "Place") -> int:
        """How many are served until this one is, itself included; 0 when it waits no longer."""
        waiting, served = list(self._waiting), dict(self._served)
        # Every turn changes who comes next, so the turns are played through.
        for turn in range(1, len(waiting) + 1):
            first = min(waiting, key=lambda it: (served.get(it.user, 0), it.age))
            if first is place:
                return turn
            waiting.remove(first)
            served[first.user] = max(served.values(), default=0) + 1
        return 0

    def leave(self, place: "Place") -> None:
        if place in self._waiting:
            self._waiting.remove(place)
        else:
            self._free += 1
        self._serve()

    def _serve(self) -> None:
        while self._free > 0 and self._waiting:
            place = min(self._waiting, key=lambda it: (self._served.get(it.user, 0), it.age))
            self._waiting.remove(place)
            self._free -= 1
            self._served[place.user] = next(self._turns)
            place.granted.set()


class Place:
    """A slot, or the wait for one."""

    def __init__(self, slots: Slots, user: UserId, age: int) -> None:
        self.user = user
        self.age = age
        self.granted = asyncio.Event()
        self._slots = slots
        self._left = False

    @property
    def number(self) -> int:
        """1 is served next; 0 holds its slot."""
        return 0 if self.granted.is_set() else self._slots.number(self)

    def leave(self) -> None:
        """Give the slot back, or stop waiting. Leaving twice is leaving once."""
        if not self._left:
            self._left = True
            self._slots.leave(self)


class Held(NamedTuple):
    """What a line waits for, and in which place."""

    limit: Limit
    place: int


class Line:
    """One step's way through its limits, in their order. `join` takes what is free at once, so that
    the place is known before anybody awaits it."""

    def __init__(self, limits: Sequence[tuple[Limit, Slots]], user: UserId) -> None:
        self.told: Limit | None = None
        """What people were told it waits for."""
        self._limits = limits
        self._user = user
        self._places: list[Place] = []

    def join(self) -> None:
        """Take what is free, up to the first limit that holds it. Joining twice is joining once."""
        while self.held is None and len(self._places) < len(self._limits):
            _, slots = self._limits[len(self._places)]
            self._places.append(slots.join(self._user))

    @property
    def held(self) -> Held | None:
        """The limit that it waits for now; None when it waits for none."""
        if not self._places or self._places[-1].granted.is_set():
            return None
        return Held(self._limits[len(self._places) - 1][0], self._places[-1].number)

    async def move(self) -> None:
        """Wait for the limit that holds it, and take what is free behind that."""
        await self._places[-1].granted.wait()
        self.join()

    def leave(self) -> None:
        """Give everything back, whatever it has so far. Leaving twice is leaving once."""
        for place in reversed(self._places):
            place.leave()
