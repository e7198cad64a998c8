"""However often a launch is sent again, and from however many sockets at once, it is one run."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from server.ports import Launched
from server.runs.launch import Launcher
from tests.server.harness import House, house
from tests.server.raw_peer import TEXT, RawPeer, frame, raw_peer

RECONNECTS, AT_ONCE = 100, 50
SOCKETS = AT_ONCE // 2
"""Each sends it twice: one user has no more than 32."""
KEYS = ["a", "b", "c", "d"]
TURNS = 60
"""Of the loop: the moments of a launch at which the connection is lost."""


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened:
        yield opened


def launch(home: House, key: str, *, id: str = "1", command: str = "small src") -> bytes:
    message = {
        "type": "launch", "id": id, "key": key, "project_id": home.project_id,
        "command": f"/code-review {command}",
    }  # fmt: skip
    return frame(TEXT, json.dumps(message).encode())


async def answered(peer: RawPeer) -> dict[str, Any]:
    while True:
        told: dict[str, Any] = json.loads((await peer.until(TEXT)).payload)
        if "id" in told:
            return told


async def runs(home: House) -> list[str]:
    answer = await home.http.get("/api/runs", params={"project_id": home.project_id})
    return [run["id"] for run in answer.json()["runs"]]


async def test_a_launch_sent_over_a_hundred_lost_connections_is_one_run(home: House) -> None:
    acks: dict[str, list[dict[str, Any]]] = {key: [] for key in KEYS}
    for number in range(RECONNECTS):
        key = KEYS[number % len(KEYS)]
        async with raw_peer(home.url) as peer:
            await peer.send(launch(home, key))
            if number % 5 == 4:
                acks[key].append(await answered(peer))
            else:
                for _ in range(number * 7 % TURNS):
                    await asyncio.sleep(0)
            peer.reset()
    for key in KEYS:
        async with raw_peer(home.url) as peer:
            await peer.send(launch(home, key))
            acks[key].append(await answered(peer))
    made = {key: {ack["run_id"] for ack in acks[key]} for key in KEYS}
    assert all(len(run_ids) == 1 for run_ids in made.values())
    assert sorted(await runs(home)) == sorted(run_id for ids in made.values() for run_id in ids)
    for key in KEYS:
        # Who made the run may not have lived to hear of it.
        assert [ack["created"] for ack in acks[key][1:]] == [False] * (len(acks[key]) - 1)


async def fifty(home: House) -> list[dict[str, Any]]:
    """The answers to the same launch, sent from all sockets before any of them is answered."""
    async with AsyncExitStack() as peers:
        opened = [await peers.enter_async_context(raw_peer(home.url)) for _ in range(SOCKETS)]
        for number in range(AT_ONCE):
            await opened[number % SOCKETS].send(launch(home, "k", id=str(number)))
        pairs = await asyncio.gather(*(two_answers(peer) for peer in opened))
    return [answer for pair in pairs for answer in pair]


async def two_answers(peer: RawPeer) -> list[dict[str, Any]]:
    return [await answered(peer), await answered(peer)]


async def test_fifty_at_once_are_one_run(home: House) -> None:
    answers = await fifty(home)
    assert sorted(int(answer["id"]) for answer in answers) == list(range(AT_ONCE))
    assert {answer["type"] for answer in answers} == {"flow_run_ack"}
    assert {answer["run_id"] for answer in answers} == set(await runs(home))
    assert len({answer["run_id"] for answer in answers}) == 1
    assert [answer["created"] for answer in answers].count(True) == 1
    async with raw_peer(home.url) as peer:
        await peer.send(launch(home, "k", command="small src/a.py"))
        assert (await answered(peer))["code"] == "key_conflict"


async def test_without_the_key_they_are_many(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control. The rate of launches ends it; one that is sent again never meets that."""
    launch_once = Launcher.launch

    async def keyless(it: Launcher, *given: Any, key: str | None) -> Launched:
        return await launch_once(it, *given, key=None)

    monkeypatch.setattr(Launcher, "launch", keyless)
    answers = await fifty(home)
    made = [answer["run_id"] for answer in answers if answer.get("created")]
    assert len(made) > 10
    assert sorted(made) == sorted(await runs(home))
