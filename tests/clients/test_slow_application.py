"""An application in Python that is slower than its frames, and one whose frames have expired."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from protocol.frames import Frame
from protocol.ids import RunId
from server.client import Client, reader
from server.client.cursor import FollowEvent
from server.client.wire import WireClient
from server.commands.running import EXIT_CODES, follow
from tests.clients.runners import PythonRunner
from tests.clients.scenarios import FINISHED, RESET, greets, tells
from tests.clients.script import RUN, Answer, Expect, Move, asks, frames, subscribed
from tests.clients.stage import Stage
from tests.protocol.samples import RUN as SNAPSHOT

pytestmark = pytest.mark.timeout(30)

ROOM = 20
UNSUBSCRIBES = Expect({"type": "unsubscribe", "run_id": RUN})


async def play(stage: Stage, *moves: Move) -> None:
    for move in moves:
        await stage.move(move)


async def read(events: AsyncGenerator[FollowEvent, None], number: int) -> list[int]:
    seqs: list[int] = []
    while len(seqs) < number:
        event = await anext(events)
        assert isinstance(event, Frame)
        seqs.append(event.seq)
    return seqs


async def test_what_it_does_not_read_waits_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_EVENTS", ROOM)
    stage = Stage(PythonRunner())
    async with (
        stage.open(),
        WireClient(stage.url) as wire,
        aclosing(wire.follow(RunId(RUN))) as events,
    ):
        first = asyncio.create_task(read(events, 1))
        await play(stage, *greets(), asks(), *tells(subscribed(0), *frames(1)))
        assert await first == [1]
        # Nobody reads now.
        await play(stage, *tells(*frames(*range(2, 60))), UNSUBSCRIBES, Answer({}))
        rest = asyncio.create_task(read(events, 2 * ROOM))
        again = range(2 + ROOM, 2 + 2 * ROOM)
        await play(stage, asks(1 + ROOM), *tells(subscribed(1 + ROOM), *frames(*again)))
        assert await rest == list(range(2, 2 + 2 * ROOM))


async def test_a_run_whose_frames_have_expired_is_at_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = Stage(PythonRunner())
    async with stage.open(), Client(stage.url, "token") as client:
        watching = asyncio.create_task(follow(client, RUN, as_json=False))
        await play(stage, *greets(), asks(), *tells(RESET))
        assert await watching == EXIT_CODES[SNAPSHOT.status]
    assert "the frames of this run have expired; it is completed" in capsys.readouterr().err


async def test_what_the_server_has_lost_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage(PythonRunner())
    async with stage.open(), Client(stage.url, "token") as client:
        watching = asyncio.create_task(follow(client, RUN, as_json=True))
        void = subscribed(1, gen=2)
        await play(stage, *greets(), asks(), *tells(subscribed(0), *frames(1, 2), void))
        await play(stage, *tells(*frames(2), {**FINISHED, "seq": 3}))
        assert await watching == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("seq", line.get("from")) for line in lines] == [1, 2, 1, 2, 3]
    assert lines[2]["type"] == "flow_run_subscribed"
