"""Slots are shared fairly, none is ever lost, and a line knows what holds it."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import UserId
from protocol.resources import Limit
from server.runs.slots import Held, Line, Place, Slots

ANN, BEN = UserId("ann"), UserId("ben")


def test_who_was_served_longest_ago_goes_first() -> None:
    slots = Slots(1)
    first = slots.join(ANN)
    waiting = {name: slots.join(user) for name, user in (("a2", ANN), ("a3", ANN), ("b1", BEN))}
    assert first.number == 0
    assert {name: place.number for name, place in waiting.items()} == {"b1": 1, "a2": 2, "a3": 3}
    served, holder = list[str](), first
    while waiting:
        holder.leave()
        (name,) = (it for it, place in waiting.items() if place.granted.is_set())
        holder = waiting.pop(name)
        served.append(name)
    assert served == ["b1", "a2", "a3"], "as the numbers had said"
    assert slots.full
    holder.leave()
    assert not slots.full


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 3))
def test_no_slot_is_lost_or_given_twice(steps: list[int], capacity: int) -> None:
    slots, places = Slots(capacity), list[Place]()
    for step in steps:
        if step == 0 and places:
            place = places.pop(len(places) // 2)
            place.leave()
            place.leave()
        else:
            places.append(slots.join(ANN if step % 2 else BEN))
        holders = sum(place.granted.is_set() for place in places)
        assert holders == min(capacity, len(places))
        waiting = sorted(place.number for place in places if not place.granted.is_set())
        assert waiting == list(range(1, len(waiting) + 1)), "each waits in a place of its own"
    for place in places:
        place.leave()
    assert sum(slots.join(ANN).granted.is_set() for _ in range(capacity + 1)) == capacity


def test_more_slots_are_given_out_at_once() -> None:
    slots = Slots(1)
    places = [slots.join(ANN) for _ in range(3)]
    slots.resize(3)
    assert all(place.granted.is_set() for place in places)
    slots.resize(1)
    assert not slots.join(ANN).granted.is_set()
    places[0].leave()
    places[1].leave()
    assert slots.full, "holders keep what they have; nobody gets what is no longer there"


async def test_a_line_takes_what_is_free_and_says_what_holds_it() -> None:
    parallel, endpoint = Slots(2), Slots(1)
    limits = [(Limit.RUN_PARALLEL, parallel), (Limit.ENDPOINT_SLOTS, endpoint)]
    lines = [Line(limits, ANN) for _ in range(3)]
    for line in lines:
        line.join()
        line.join()
    assert [line.held for line in lines] == [
        None,
        Held(Limit.ENDPOINT_SLOTS, 1),
        Held(Limit.RUN_PARALLEL, 1),
    ]
    lines[0].leave()
    lines[0].leave()
    await asyncio.wait_for(lines[1].move(), 20)
    await asyncio.wait_for(lines[2].move(), 20)
    assert lines[1].held is None
    assert lines[2].held == Held(Limit.ENDPOINT_SLOTS, 1), "it has passed the first limit"
    lines[2].leave()
    lines[1].leave()
    assert not parallel.full
    assert not endpoint.full


def test_a_line_that_never_joined_gives_nothing_back() -> None:
    slots = Slots(1)
    Line([(Limit.ENDPOINT_SLOTS, slots)], ANN).leave()
    assert slots.join(ANN).granted.is_set()
    assert not slots.join(ANN).granted.is_set()
