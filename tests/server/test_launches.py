"""A launch is made ready once for its key, outlives the socket that asked, and is bounded."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from protocol.ids import UserId
from server.agents.copies.trees import PinnedTrees
from server.limits import LimitSettings
from server.runs.under_way import UnderWay
from tests.server.harness import House, Socket, house

MANY = 50


class Planning:
    """Holds every launch between its beginning and its plan, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.go = asyncio.Event()
        theirs = PinnedTrees.situation

        async def situation(*args: Any, **kwargs: Any) -> Any:
            self.begun += 1
            await self.go.wait()
            return await theirs(*args, **kwargs)

        monkeypatch.setattr(PinnedTrees, "situation", situation)

    async def has_begun(self, count: int = 1) -> None:
        while self.begun < count:
            await asyncio.sleep(0)


@pytest.fixture
def planning(monkeypatch: pytest.MonkeyPatch) -> Planning:
    return Planning(monkeypatch)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    limits = LimitSettings(sockets_per_user=64, launches_under_way=100, launch_burst=1_000)
    async with house(tmp_path, limits=limits) as opened_house:
        yield opened_house


def launch(home: House, key: str, **changes: Any) -> dict[str, Any]:
    command = {"command": "/code-review small src", "project_id": home.project_id}
    return {"type": "launch", "key": key, **command, **changes}


async def runs_of(home: House) -> list[str]:
    return [run["id"] for run in (await home.http.get("/api/runs")).json()["runs"]]


def without_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard taken away: every launch is work of its own, done for whoever asked."""

    async def alone(
        self: UnderWay, work: Callable[[], Coroutine[Any, Any, Any]], *, user: UserId, **_: Any
    ) -> tuple[Any, bool]:
        self._of[user] += 1
        try:
            return await work(), False
        finally:
            self._of[user] -= 1

    monkeypatch.setattr(UnderWay, "wait_for", alone)


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_launch_that_is_sent_again_and_again_is_planned_once(
    home: House, planning: Planning, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    if not guarded:
        without_sharing(monkeypatch)
    async with AsyncExitStack() as sockets:
        wires = [await sockets.enter_async_context(home.socket()) for _ in range(MANY)]
        asking = [
            asyncio.create_task(wire.ask(id=str(number), **launch(home, "k")))
            for number, wire in enumerate(wires)
        ]
        await planning.has_begun(1 if guarded else MANY)
        while guarded and waiting(home) < MANY:
            await asyncio.sleep(0)
        planning.go.set()
        acks = await asyncio.gather(*asking)
    assert planning.begun == (1 if guarded else MANY)
    assert {ack["run_id"] for ack in acks} == set(await runs_of(home))
    assert sum(ack["created"] for ack in acks) == 1


def waiting(home: House) -> int:
    """How many messages wait for their answers, over all sockets."""
    return sum(len(it._connection._waiting) for it in home.podium.channel._sessions)


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_launch_outlives_the_socket_that_asked(
    home: House, planning: Planning, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    if not guarded:
        without_sharing(monkeypatch)
    async with home.socket() as wire:
        await wire.send(id="1", **launch(home, "k"))
        await planning.has_begun()
    while home.podium.channel._sessions:
        await asyncio.sleep(0)
    planning.go.set()
    if not guarded:
        assert await runs_of(home) == []
        return
    while home.podium.under_way.count:
        await asyncio.sleep(0)
    (run_id,) = await runs_of(home)
    async with home.socket() as wire:
        again = await wire.ask(id="1", **launch(home, "k"))
    assert (again["run_id"], again["created"]) == (run_id, False)
    assert planning.begun == 1


async def test_another_body_with_a_key_that_is_under_way(home: House, planning: Planning) -> None:
    async with home.socket() as wire, home.socket() as other:
        first = asyncio.create_task(wire.ask(id="1", **launch(home, "k")))
        await planning.has_begun()
        refused = await other.ask(id="1", **launch(home, "k", command="/code-review large src"))
        assert refused["code"] == "key_conflict"
        planning.go.set()
        assert (await first)["created"] is True


async def test_a_rerun_that_is_sent_again_is_one_run(home: House) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    async with home.socket() as one, home.socket() as two:
        message = {"type": "rerun", "id": "1", "run_id": run_id, "key": "again"}
        acks = await asyncio.gather(*(wire.ask(**message) for wire in (one, two)))
    assert len({ack["run_id"] for ack in acks}) == 1
    assert len(await runs_of(home)) == 2


async def test_a_launch_that_a_stop_overtakes_is_answered_and_not_stored(
    home: House, planning: Planning
) -> None:
    async with home.socket() as wire:
        asking = asyncio.create_task(wire.ask(id="1", **launch(home, "k")))
        over_rest = asyncio.create_task(home.http.post("/api/runs", json=home.body()))
        await planning.has_begun(2)
        await home.podium.drain()
        refused = await asking
        assert (refused["code"], refused["retry_after_ms"]) == ("busy", 1_000)
    answer = await over_rest
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"] == "busy"
    late = await home.http.post("/api/runs", json=home.body())
    assert late.status_code == 503
    assert (await home.http.post("/api/plans", json=home.body())).status_code == 503
    assert await runs_of(home) == []


async def test_a_repeat_is_answered_by_a_server_that_stops(home: House) -> None:
    key = {"Idempotency-Key": "k"}
    first = await home.http.post("/api/runs", json=home.body(), headers=key)
    home.podium.gate.close()
    again = await home.http.post("/api/runs", json=home.body(), headers=key)
    assert (again.status_code, again.json()) == (200, first.json())


# --- the limits -----------------------------------------------------------------------------------


async def asked(wire: Socket, home: House, key: str) -> dict[str, Any]:
    return await wire.ask(id=key, **launch(home, key))


async def test_launches_under_way_are_bounded(tmp_path: Path, planning: Planning) -> None:
    async with house(tmp_path, limits=LimitSettings(launches_under_way=2)) as home:
        async with home.socket() as wire, home.socket() as other:
            for key in ("a", "b"):
                await wire.send(id=key, **launch(home, key))
            await planning.has_begun(2)
            refused = await asked(other, home, "c")
            assert (refused["code"], refused["retry_after_ms"]) == ("busy", 1_000)
            await other.send(id="a", **launch(home, "a"))
            planning.go.set()
            joined = await other.until(id="a")
            assert joined["created"] is False, "a repeat takes no room"
        assert planning.begun == 2


async def test_runs_of_one_user_are_bounded(tmp_path: Path) -> None:
    async with house(tmp_path, limits=LimitSettings(runs_per_user=2)) as home:
        home.agent.hold()
        async with home.socket() as wire:
            first = await asked(wire, home, "a")
            await asked(wire, home, "b")
            refused = await asked(wire, home, "c")
            assert (refused["code"], refused["message"]) == (
                "busy",
                "2 of your runs have not ended",
            )
            assert refused["hint"]
            again = await asked(wire, home, "a")
            assert again["run_id"] == first["run_id"], "a repeat is answered"
            plan = await wire.ask(id="p", **launch(home, "x") | {"type": "plan"})
            assert plan["type"] == "flow_run_ack", "a plan is no run"
            home.agent.release()
            await home.end_of(first["run_id"])
            while home.podium.runner.count == 2:
                await asyncio.sleep(0)
            assert (await asked(wire, home, "c"))["created"] is True


async def test_launches_are_limited_in_their_rate(tmp_path: Path) -> None:
    slow = LimitSettings(launch_burst=2, launches_per_second=0.001)
    async with house(tmp_path, limits=slow) as home:
        key = {"Idempotency-Key": "k"}
        first = await home.http.post("/api/runs", json=home.body(), headers=key)
        assert first.status_code == 201
        assert (await home.http.post("/api/plans", json=home.body())).status_code == 200
        refused = await home.http.post("/api/runs", json=home.body())
        assert (refused.status_code, refused.json()["error"]) == (429, "rate_limited")
        assert 900 < int(refused.headers["retry-after"]) <= 1_000
        again = await home.http.post("/api/runs", json=home.body(), headers=key)
        assert again.status_code == 200, "a repeat costs nothing"
