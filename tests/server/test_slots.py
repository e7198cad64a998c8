"""Slots are shared fairly, and none is ever lost."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import UserId
from server.runs.slots import Slots

ANN, BEN = UserId("ann"), UserId("ben")


async def test_who_was_served_longest_ago_goes_first() -> None:
    slots, order = Slots(1), list[str]()
    gate = asyncio.Event()

    async def work(user: UserId, name: str) -> None:
        async with slots.held(user):
            order.append(name)
            await gate.wait()

    async with asyncio.TaskGroup() as group:
        for user, name in ((ANN, "a1"), (ANN, "a2"), (ANN, "a3"), (BEN, "b1")):
            group.create_task(work(user, name))
            await asyncio.sleep(0)
        assert order == ["a1"]
        assert slots.ahead() == 4
        gate.set()
    assert order == ["a1", "b1", "a2", "a3"]
    assert slots.ahead() == 0


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 3))
def test_cancelled_waits_lose_no_slot(steps: list[int], capacity: int) -> None:
    async def scenario() -> None:
        slots, tasks, gate = Slots(capacity), list[asyncio.Task[None]](), asyncio.Event()
        most = 0

        async def work() -> None:
            nonlocal most
            async with slots.held(ANN):
                most = max(most, slots.capacity - slots._free)
                await gate.wait()

        for step in steps:
            if step == 0 and tasks:
                tasks.pop(len(tasks) // 2).cancel()
            elif step == 1:
                await asyncio.sleep(0)
            else:
                tasks.append(asyncio.create_task(work()))
        gate.set()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        assert slots._free == capacity
        assert most <= capacity

    asyncio.run(scenario())


async def test_a_larger_capacity_serves_who_waits() -> None:
    slots, gate, held = Slots(1), asyncio.Event(), 0

    async def work() -> None:
        nonlocal held
        async with slots.held(ANN):
            held += 1
            await gate.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(work())
        await asyncio.sleep(0)
        slots.resize(2)
        await asyncio.sleep(0)
        assert held == 2
        gate.set()
    assert held == 3
