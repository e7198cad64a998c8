"""The channel, on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.server.harness import TOKEN, House, house

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


def command(home: House, text: str = "/code-review small src") -> dict[str, str]:
    return {"project_id": home.project_id, "command": text}


async def test_hello_comes_first_and_every_message_is_answered_once(home: House) -> None:
    async with home.socket() as wire:
        hello = await wire.receive()
        assert hello["type"] == "flow_run_hello"
        assert hello["limits"]["message_bytes"] == 64 * 1024
        answers = [
            await wire.ask(type="ping", id="1"),
            await wire.ask(type="flows", id="2"),
            await wire.ask(type="plan", id="3", **command(home)),
            await wire.ask(type="cancel", id="4", run_id=NOBODY),
            await wire.ask(type="subscribe_index", id="5"),
            await wire.ask(type="lunch", id="6"),
            await wire.ask(type="hello", id="7"),
            await wire.ask(type="unsubscribe", id="8"),
        ]
    kinds = [answer["type"].removeprefix("flow_run_") for answer in answers]
    assert kinds == ["ack", "ack", "ack", "error", "ack", "error", "error", "ack"]
    assert answers[1]["flows"][0]["name"] == "code-review"
    assert answers[2]["plan"]["scope"]["kind"] == "paths"
    assert answers[3]["code"] == "not_found"
    assert answers[5]["field"] == "type"


async def test_the_ack_precedes_what_the_launch_causes(home: House) -> None:
    async with home.socket() as wire:
        await wire.send(type="launch", id="1", key="k", subscribe=True, **command(home))
        assert (await wire.receive())["type"] == "flow_run_hello"
        ack = await wire.receive()
        assert (ack["type"], ack["created"]) == ("flow_run_ack", True)
        assert (await wire.receive())["type"] == "flow_run_subscribed"
        frames = [frame async for frame in wire.frames_of(ack["run_id"])]
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    text = "".join(
        frame["text"]
        for frame in frames
        if frame["type"] == "flow_run_step_delta" and frame["step_id"] == "review.security"
    )
    assert text == "I read the files."


async def test_a_plan_is_launched_exactly(home: House) -> None:
    async with home.socket() as wire:
        plan = (await wire.ask(type="plan", id="1", **command(home)))["plan"]
        ack = await wire.ask(type="launch", id="2", key="k", plan_id=plan["plan_id"])
        frames = await home.end_of(ack["run_id"])
    assert frames[1]["plan"] == plan


async def test_subscribing_from_anywhere_gives_the_same_log(home: House) -> None:
    run_id = await home.launch()
    whole = await home.end_of(run_id)
    async with home.socket() as wire:
        for after in (0, 1, len(whole) // 2, len(whole), len(whole) + 5):
            cursor = {"gen": 1, "seq": after}
            await wire.send(type="subscribe", id=str(after), run_id=run_id, after=cursor)
            start = await wire.until(type="flow_run_subscribed")
            assert start["from"] == min(after, len(whole))
            got = []
            while True:
                frame = await wire.receive()
                if frame["type"] == "flow_run_caught_up":
                    break
                got.append(frame)
            assert got == whole[after:]
        await wire.send(type="subscribe", id="t", run_id=run_id, tail=2)
        assert (await wire.until(type="flow_run_subscribed"))["from"] == len(whole) - 2


async def test_an_outline_leaves_out_deltas_and_tools(home: House) -> None:
    run_id = await home.launch()
    whole = await home.end_of(run_id)
    async with home.socket() as wire:
        await wire.send(type="subscribe", id="1", run_id=run_id, detail="outline")
        outline = [frame async for frame in wire.frames_of(run_id)]
    hidden = ("flow_run_step_delta", "flow_run_step_tool")
    assert outline == [frame for frame in whole if frame["type"] not in hidden]
    assert len(outline) < len(whole)


async def test_many_readers_see_one_log_while_it_is_written(home: House) -> None:
    home.agent.hold()
    run_id = await home.launch()
    readers = [asyncio.create_task(home.end_of(run_id)) for _ in range(8)]
    await home.agent.started(2)
    readers += [asyncio.create_task(home.end_of(run_id)) for _ in range(8)]
    home.agent.release()
    logs = await asyncio.gather(*readers)
    assert all(log == logs[0] for log in logs)
    assert [frame["seq"] for frame in logs[0]] == list(range(1, len(logs[0]) + 1))


async def test_cancel_one_step(home: House) -> None:
    home.agent.hold()
    run_id = await home.launch()
    await home.agent.started(2)
    async with home.socket() as wire:
        bad = await wire.ask(type="cancel", id="0", run_id=run_id, step_id="nope")
        assert bad["code"] == "not_found"
        ack = await wire.ask(type="cancel", id="1", run_id=run_id, step_id="review.security")
        assert ack["outcome"] == "cancelling"
        await wire.send(type="subscribe", id="2", run_id=run_id)
        await wire.until(type="flow_run_step_status", status="cancelled")
        late = await wire.ask(type="cancel", id="l", run_id=run_id, step_id="review.security")
        assert late["outcome"] == "already_terminal"
        home.agent.release()
        end = await wire.until(type="flow_run_finished")
        assert end["status"] == "partial"
        again = await wire.ask(type="cancel", id="3", run_id=run_id)
        assert again["outcome"] == "already_terminal"


async def test_cancel_racing_the_end_ends_once(home: House) -> None:
    async with home.socket() as wire:
        for number in range(25):
            run_id = await home.launch()
            for _ in range(number):
                await asyncio.sleep(0)
            await wire.ask(type="cancel", id=str(number), run_id=run_id)
            frames = await home.end_of(run_id)
            assert sum(frame["type"] == "flow_run_finished" for frame in frames) == 1
            run = (await home.http.get(f"/api/runs/{run_id}")).json()["run"]
            assert run["status"] == frames[-1]["status"]


async def test_a_client_that_leaves_after_its_launch_leaves_a_live_run(home: House) -> None:
    for number in range(10):
        async with home.socket() as wire:
            ack = await wire.ask(type="launch", id="1", key=f"k{number}", **command(home))
        frames = await home.end_of(ack["run_id"])
        assert frames[-1]["status"] == "completed"


async def test_too_much_and_too_large(home: House) -> None:
    async with home.socket() as wire:
        await wire.connection.send("x" * (64 * 1024 + 1))
        assert (await wire.until(type="flow_run_error"))["code"] == "too_large"
        await wire.connection.send(b"binary")
        assert (await wire.until(type="flow_run_error"))["code"] == "bad_message"
        for number in range(200):
            await wire.send(type="ping", id=str(number))
        limited = await wire.until(code="rate_limited")
        assert limited["retry_after_ms"] >= 1


async def test_garbage_closes_the_socket(home: House) -> None:
    async with home.socket() as wire:
        for _ in range(20):
            await wire.connection.send("{")
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await wire.receive()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer wrong"}, 401),
        ({"X-Nothing": "1"}, 401),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}, 403),
    ],
)
async def test_strangers_are_refused_before_the_socket_is_accepted(
    home: House, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with home.socket(**headers):
            pass
    assert refused.value.response.status_code == status


async def test_a_stop_says_goodbye(home: House) -> None:
    async with home.socket() as wire:
        await wire.receive()
        draining = asyncio.create_task(home.podium.drain())
        assert (await wire.receive())["type"] == "flow_run_draining"
        with pytest.raises(ConnectionClosed) as closed:
            await wire.receive()
        await draining
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert (await home.http.get("/readyz")).status_code == 503
