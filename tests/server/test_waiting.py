"""The Event and the Queue of a pane."""

import asyncio
import sys

import pytest

from server.channel.waiting import Flag, Inbox


async def test_a_flag_lets_all_go_who_wait() -> None:
    flag = Flag()
    waiting = [asyncio.create_task(flag.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    flag.set()
    flag.clear()
    await asyncio.wait_for(asyncio.gather(*waiting), 20)
    assert not flag.is_set()
    flag.set()
    await flag.wait()
    assert flag.is_set()


async def test_who_is_cancelled_waits_no_more() -> None:
    flag = Flag()
    gone, stays = asyncio.create_task(flag.wait()), asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    assert gone.cancelled()
    flag.set()
    await asyncio.wait_for(stays, 20)
    late = asyncio.create_task(Flag().wait())
    await asyncio.sleep(0)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late


async def test_an_inbox_keeps_its_order_and_nothing_else() -> None:
    inbox: Inbox[int] = Inbox()
    got: list[int] = []

    async def take() -> None:
        for _ in range(1_000):
            got.append(await inbox.get())

    taking = asyncio.create_task(take())
    for number in range(1_000):
        assert inbox.empty() is (inbox._items is None)
        inbox.put_nowait(number)
        if number % 7 == 0:
            await asyncio.sleep(0)
    await asyncio.wait_for(taking, 20)
    assert got == list(range(1_000))
    assert inbox.empty()
    assert inbox._items is None


async def test_nothing_is_lost_by_who_is_cancelled() -> None:
    inbox: Inbox[int] = Inbox()
    gone = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait(1)
    gone.cancel()
    await asyncio.wait([gone])
    inbox.put_nowait(2)
    assert gone.cancelled()
    assert [await inbox.get(), await inbox.get()] == [1, 2]


def test_they_are_small() -> None:
    assert sys.getsizeof(Flag()) + sys.getsizeof(Inbox[int]()) < 150
