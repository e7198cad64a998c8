"""The twin of the socket as server-sent events, on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Message

from server.channel.outbox import Stalled
from server.http import sse, streamed
from server.limits import HEARTBEAT_SECONDS, LimitSettings
from server.world import SystemClock
from tests.server.harness import TOKEN, WAIT_SECONDS, House, house
from tests.server.readers import Event, Talker, altered, events_of, reading, stored


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


async def test_an_ended_run_is_sent_whole_and_the_stream_ends(home: House) -> None:
    run_id = await home.launch()
    whole = await home.end_of(run_id)
    async with reading(home, run_id) as reader:
        events = await reader.rest()
        headers = reader.response.headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["x-accel-buffering"] == "no"
    assert headers.get_list("cache-control") == ["no-store"]
    assert stored(events) == whole
    head = len(whole)
    assert events[0].frame == {
        "type": "flow_run_subscribed", "run_id": run_id, "gen": 1, "head": head, "from": 0,
    }  # fmt: skip
    assert [event.id for event in events] == [
        "1:0", *(f"1:{frame['seq']}" for frame in whole), None,
    ]  # fmt: skip
    assert events[-1].frame["type"] == "flow_run_caught_up"


async def test_from_anywhere_it_is_the_same_log(home: House) -> None:
    run_id = await home.launch()
    whole = await home.end_of(run_id)
    head = len(whole)
    for after in (0, 1, head // 2, head - 1):
        cursor = f"1:{after}"
        assert stored(await events_of(home, run_id, f"?after={cursor}")) == whole[after:]
        assert stored(await events_of(home, run_id, last_event_id=cursor)) == whole[after:]
    # A reader that comes back still has the address that it began with.
    events = await events_of(home, run_id, "?after=1:2", last_event_id=f"1:{head - 1}")
    assert stored(events) == whole[-1:]
    assert stored(await events_of(home, run_id, last_event_id="")) == whole
    unknown = await events_of(home, run_id, "?after=7:3")
    assert (unknown[0].id, stored(unknown)) == ("1:0", whole)
    path = f"/api/runs/{run_id}/events"
    done = await home.http.get(path, headers={"Last-Event-ID": f"1:{head}"})
    assert (done.status_code, done.content) == (204, b""), "a browser stays away"
    beyond = await events_of(home, run_id, f"?after=1:{head + 1}")
    assert (beyond[0].id, stored(beyond)) == (f"1:{head}", [])
    assert beyond[0].frame["from"] == head, "what the reader has beyond it is no more"


async def test_a_lost_tail_is_told(home: House, tmp_path: Path) -> None:
    run_id = await home.launch()
    whole = await home.end_of(run_id)
    await altered(tmp_path, "INSERT INTO flow_generations VALUES (?, 2, 3)", run_id)
    await altered(tmp_path, "UPDATE flow_runs SET gen = 2 WHERE id = ?", run_id)
    events = await events_of(home, run_id, last_event_id="1:5")
    assert (events[0].id, events[0].frame["from"]) == ("2:3", 3)
    assert [event.id for event in events if event.data and "at" in event.frame] == [
        f"2:{seq}" for seq in range(4, len(whole) + 1)
    ]
    assert stored(await events_of(home, run_id, last_event_id="2:5")) == whole[5:]


async def test_expired_frames_are_told_with_the_run_as_it_is(home: House, tmp_path: Path) -> None:
    run_id = await home.launch()
    head = len(await home.end_of(run_id))
    await altered(tmp_path, "UPDATE flow_runs SET floor = head WHERE id = ?", run_id)
    (event, *others) = await events_of(home, run_id)
    assert (event.id, event.frame["type"]) == (f"1:{head}", "flow_run_reset")
    assert event.frame["snapshot"]["status"] == "completed"
    assert stored(others) == []


async def test_many_readers_and_the_socket_see_one_log_while_it_is_written(home: House) -> None:
    home.agent.hold()
    run_id = await home.launch()
    readers = [asyncio.create_task(events_of(home, run_id)) for _ in range(4)]
    await home.agent.started(2)
    readers += [asyncio.create_task(events_of(home, run_id)) for _ in range(4)]
    sockets = asyncio.create_task(home.end_of(run_id))
    async with reading(home, run_id) as live:
        await live.until("flow_run_caught_up")
        home.agent.release()
        end = await live.until("flow_run_finished")
        assert await live.next() is None, "it ends with the run"
    whole = await sockets
    assert end.frame == whole[-1]
    assert [frame["seq"] for frame in whole] == list(range(1, len(whole) + 1))
    assert all(stored(events) == whole for events in await asyncio.gather(*readers))


async def test_a_reader_that_is_cut_off_goes_on_where_it_was(home: House) -> None:
    home.agent.hold()
    run_id = await home.launch()
    await home.agent.started(2)
    got: list[Event] = []
    cursor, rounds = "", 0
    while not got or got[-1].frame["type"] != "flow_run_finished":
        rounds += 1
        async with reading(home, run_id, last_event_id=cursor) as reader:
            for _ in range(1 + rounds % 7):
                event = await reader.next()
                assert event is not None
                if event.id is not None:
                    got.append(event)
                    cursor = event.id
                if event.frame["type"] == "flow_run_finished":
                    break
        home.agent.release()
    assert rounds > 3
    assert stored(got) == await home.end_of(run_id)


async def test_an_outline_leaves_out_deltas_and_tools(home: House) -> None:
    run_id = await home.launch()
    whole = await home.end_of(run_id)
    events = await events_of(home, run_id, "?detail=outline")
    hidden = ("flow_run_step_delta", "flow_run_step_tool")
    assert stored(events) == [frame for frame in whole if frame["type"] not in hidden]


@pytest.mark.parametrize(
    ("query", "field"),
    [("after=3", "after"), ("after=0:3", "after"), ("after=1:-1", "after"),
     ("after=1:" + "9" * 40, "after"), ("after=1:٣", "after"), ("detail=all", "detail")],
)  # fmt: skip
async def test_a_wrong_query_is_named(home: House, query: str, field: str) -> None:
    run_id = await home.launch()
    answer = await home.http.get(f"/api/runs/{run_id}/events?{query}")
    assert answer.status_code == 400
    assert list(answer.json()["details"]["fieldErrors"]) == [field]
    header = {"Last-Event-ID": "x"}
    answer = await home.http.get(f"/api/runs/{run_id}/events", headers=header)
    assert list(answer.json()["details"]["fieldErrors"]) == ["Last-Event-ID"]


async def test_head_is_answered_without_a_stream(home: House) -> None:
    home.agent.hold()
    run_id = await home.launch()
    answer = await home.http.head(f"/api/runs/{run_id}/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    for stream in open_streams(home):
        await stream.ended.wait()


async def test_one_user_opens_so_many(tmp_path: Path) -> None:
    async with house(tmp_path, limits=LimitSettings(streams_per_user=1)) as home:
        home.agent.hold()
        run_id = await home.launch()
        async with reading(home, run_id) as reader:
            await reader.next()
            refused = await home.http.get(f"/api/runs/{run_id}/events")
            assert (refused.status_code, refused.json()["error"]) == (429, "rate_limited")
            (stream,) = open_streams(home)
        await stream.ended.wait()
        async with reading(home, run_id) as reader:
            assert await reader.next() is not None, "there is room again"


def open_streams(home: House) -> list[sse.Stream]:
    return list(home.podium.events._open)


# --- silence, stalls and stops ------------------------------------------------------------------


class Beats(SystemClock):
    """Heartbeats come when the test says so."""

    def __init__(self) -> None:
        self.due = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if seconds != HEARTBEAT_SECONDS:
            await super().sleep(seconds)
            return
        await self.due.wait()
        self.due.clear()


async def test_a_quiet_stream_has_a_heartbeat(tmp_path: Path) -> None:
    clock = Beats()
    async with house(tmp_path, clock=clock) as home:
        home.agent.hold()
        run_id = await home.launch()
        await home.agent.started(2)
        async with reading(home, run_id) as reader:
            await reader.until("flow_run_caught_up")
            for _ in range(2):
                clock.due.set()
                while (event := await reader.next()) is not None and event.data:
                    pass
                assert event is not None
                assert event.comment == "heartbeat"


async def test_a_stop_says_goodbye(home: House) -> None:
    home.agent.hold()
    run_id = await home.launch()
    await home.agent.started(2)
    async with reading(home, run_id) as reader:
        await reader.until("flow_run_caught_up")
        await home.podium.drain()
        events = await reader.rest()
    assert events[-1].frame["type"] == "flow_run_draining"
    retry_after_ms = events[-1].frame["retry_after_ms"]
    assert 1_000 <= retry_after_ms < 2_000
    assert (events[-1].id, events[-1].retry) == (None, str(retry_after_ms))
    refused = await home.http.get(f"/api/runs/{run_id}/events")
    assert refused.status_code == 503


async def stalled_reader(home: House, run_id: str, token: str = TOKEN) -> socket.socket:
    """Asks for the events of a run and reads none of them."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    address = httpx.URL(home.url)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(peer, (address.host, address.port))
    request = (
        f"GET /api/runs/{run_id}/events HTTP/1.1\r\nHost: {address.host}\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    )
    await loop.sock_sendall(peer, request.encode())
    await loop.sock_recv(peer, 1)
    return peer


LARGE = 2_500
"""Texts of 4 KiB: more than the buffers of a connection take."""


@pytest.mark.parametrize("aborting", [True, False], ids=["aborted", "closed only"])
async def test_a_reader_that_stalls_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, aborting: bool
) -> None:
    """The second is the negative control: a close waits for the same full buffer."""
    monkeypatch.setattr(streamed, "CUT_SECONDS", 0.2)
    if not aborting:
        monkeypatch.setattr(streamed.Outlet, "abort", lambda self: self._transport.close())
    async with house(tmp_path, agent=Talker(LARGE), stall_seconds=0.2) as home:
        run_id = await home.launch()
        whole = await home.end_of(run_id)
        with await stalled_reader(home, run_id) as peer:
            (stream,) = open_streams(home)
            await stream.ended.wait()
            assert stream._outbox is not None
            transport = stream._outbox._outlet._transport
            assert transport is not None
            assert (transport.get_write_buffer_size() == 0) is aborting
            transport.abort()
            assert peer.fileno() > 0
        assert stored(await events_of(home, run_id)) == whole, "others are not concerned"


class Slow:
    """A connection whose reader takes a byte between two looks at it, or none. `sizes` are what
    waits for the reader at each look; after them everything has been taken."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.taken = asyncio.Event()
        self.transport = self

    def abort(self) -> None:
        raise NotImplementedError

    def get_write_buffer_size(self) -> int:
        if len(self.sizes) == 1:
            self.taken.set()
        return self.sizes.pop(0)

    async def receive(self) -> Message:
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        await self.taken.wait()


@pytest.mark.parametrize(
    ("sizes", "cut"), [([9, 8, 5, 4, 1], False), ([9, 8, 8, 4], True), ([9, 9, 1], True)]
)
async def test_a_reader_that_is_slow_is_not_cut(sizes: list[int], *, cut: bool) -> None:
    slow = Slow(sizes)
    outlet = streamed.Outlet(slow.receive, slow.send, stall_seconds=0.001)
    if cut:
        with pytest.raises(Stalled):
            await outlet.write(b"x")
    else:
        await outlet.write(b"x")


async def test_a_stalled_reader_does_not_hold_up_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "DRAIN_SECONDS", 0.2)
    async with house(tmp_path, agent=Talker(LARGE), stall_seconds=600.0) as home:
        run_id = await home.launch()
        await home.end_of(run_id)
        with await stalled_reader(home, run_id):
            (stream,) = open_streams(home)
            await home.podium.drain()
            async with asyncio.timeout(WAIT_SECONDS):
                await stream.ended.wait()
