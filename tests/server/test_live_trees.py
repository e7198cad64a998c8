"""Launches and the cache of copies: a live run keeps its copy, a plan without one is refused, and a
project outside the roots starts nothing."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from server.agents.copies.trees import PinnedTrees
from server.ports import AgentOrder
from server.stores.migrate import StoreLocked
from tests.fakes.agent import NOTHING_FOUND, FakeAgent
from tests.server.harness import House, house


def trees_of(home: House) -> PinnedTrees:
    trees = home.podium.runner._rooms.trees
    assert isinstance(trees, PinnedTrees)
    return trees


async def planned(home: House) -> dict[str, Any]:
    body = {"project_id": home.project_id, "command": "/code-review small src"}
    answer = await home.http.post("/api/plans", json=body)
    plan: dict[str, Any] = answer.json()["plan"]
    return plan


async def refusal(home: House, message: dict[str, Any]) -> dict[str, Any]:
    async with home.socket() as wire:
        answer = await wire.ask(id="1", **message)
    assert answer["type"] == "flow_run_error", answer
    return answer


async def test_a_live_run_keeps_its_copy(tmp_path: Path) -> None:
    tried: list[bool] = []

    def evicting(order: AgentOrder) -> dict[str, Any]:
        tried.append(copies._evict(order.tree.name))
        assert (order.tree / "src").is_dir()
        return NOTHING_FOUND

    async with house(tmp_path, agent=FakeAgent(evicting)) as home:
        copies = trees_of(home)._copies
        run_id = await home.launch()
        await home.end_of(run_id)
        tree_id = (await planned(home))["tree"]["id"]
        assert tried
        assert not any(tried)
        live = [it.task for it in home.podium.runner._live.values()]
        if live:
            await asyncio.wait(live, timeout=10)
        assert await asyncio.to_thread(copies._evict, tree_id), "the negative control"


async def test_a_second_server_leaves_the_copies_of_the_first_alone(tmp_path: Path) -> None:
    half_made = tmp_path / "data" / "trees" / ".half-made"
    async with house(tmp_path):
        half_made.mkdir(parents=True)
        with pytest.raises(StoreLocked):
            async with house(tmp_path):
                pass
        assert half_made.exists()
    async with house(tmp_path):
        assert not half_made.exists(), "what a crash has left goes at the next start"


async def test_a_plan_whose_copy_is_gone_is_refused(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        run_id = await home.launch()
        await home.end_of(run_id)
        plan = await planned(home)
        await asyncio.to_thread(shutil.rmtree, tmp_path / "data" / "trees" / plan["tree"]["id"])
        for message in (
            {"type": "launch", "key": "k", "plan_id": plan["plan_id"]},
            {"type": "rerun", "key": "r", "run_id": run_id},
        ):
            answer = await refusal(home, message)
            assert answer["code"] == "not_found"
            assert "launch the command again" in answer["hint"]
        again = await planned(home)
        assert again["plan_id"] == plan["plan_id"]
        launched = await home.http.post("/api/runs", json=home.body())
        assert launched.status_code == 201


async def test_a_stored_project_outside_the_roots_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path) as home:
        run_id = await home.launch()
        await home.end_of(run_id)
        plan = await planned(home)
        monkeypatch.setattr(trees_of(home), "_roots", (tmp_path / "elsewhere",))
        answer = await home.http.post("/api/runs", json=home.body())
        assert answer.status_code == 403
        assert "project_roots" in answer.json()["message"]
        for message in (
            {"type": "launch", "key": "k", "plan_id": plan["plan_id"]},
            {"type": "rerun", "key": "r", "run_id": run_id},
        ):
            refused = await refusal(home, message)
            assert (refused["code"], refused["field"]) == ("forbidden", "path")
        assert len((await home.http.get("/api/runs")).json()["runs"]) == 1
        monkeypatch.setattr(trees_of(home), "_roots", (tmp_path,))
        await home.launch()


@pytest.mark.parametrize(
    ("roots", "end"),
    [
        (["elsewhere"], ("failed", "project_not_permitted")),
        (["."], ("completed", None)),
    ],
)
async def test_an_unfinished_run_outside_the_roots_does_not_go_on(
    tmp_path: Path, roots: list[str], end: tuple[str, str | None]
) -> None:
    agent = FakeAgent()
    agent.hold()
    async with house(tmp_path, agent=agent) as home:
        run_id = await home.launch()
        await agent.started(1)
    (tmp_path / "elsewhere").mkdir()
    again = FakeAgent()
    given = [str(tmp_path / root) for root in roots]
    async with house(tmp_path, agent=again, projects=[], project_roots=given) as home:
        last = (await home.end_of(run_id))[-1]
    assert (last["status"], last.get("reason")) == end
    assert bool(again.orders) is (end[0] == "completed")


async def test_the_plan_says_what_agents_can_read(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        tree = (await planned(home))["tree"]
    assert tree["paths"] == sorted(tree["paths"])
    assert len(tree["paths"]) == tree["files"] > 0
    assert tree["bytes"] > 0
