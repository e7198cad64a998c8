"""Runs, from launch to report, with an agent that does as the test says."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flows.report.build import same
from protocol.report import Report
from protocol.resources import Receipt
from protocol.states import StepStatus
from server.ports import AgentFailure, AgentOrder, AttemptRef, StepChange, StoreUnavailable
from server.runs import runner
from server.stores.sqlite import SqliteStore
from tests.fakes.agent import NOTHING_FOUND, RECEIPT, FakeAgent, finding, found
from tests.server.harness import House, house

QUOTE = "    return undefined_name_here"


def one_finding(order: AgentOrder) -> dict[str, Any] | AgentFailure:
    """The generalist finds one thing, the validator confirms it, the others find nothing."""
    if order.ref.step_id == "review.general.1":
        return found(finding("src/a.py", 2, QUOTE))
    if order.ref.step_id == "validate":
        verdict = {"finding_id": "JUN-1-01", "verdict": "confirmed", "reason": "Seen."}
        return {
            "verdicts": [{**verdict, "citations": []}], "summary": "One.", "end": "complete",
        }  # fmt: skip
    return NOTHING_FOUND


async def report_of(home: House, run_id: str) -> Report:
    answer = await home.http.get(f"/api/runs/{run_id}/report.json")
    return msgspec.json.decode(answer.content, type=Report)


def steps(frames: list[dict[str, Any]], step_id: str) -> list[str]:
    """The statuses that a step went through."""
    return [
        frame["status"]
        for frame in frames
        if frame["type"] == "flow_run_step_status" and frame["step_id"] == step_id
    ]


async def test_a_finding_is_shown_checked_judged_and_reported(tmp_path: Path) -> None:
    async with house(tmp_path, agent=FakeAgent(one_finding)) as home:
        run_id = await home.launch()
        frames = await home.end_of(run_id)
        report = await report_of(home, run_id)
    shown = [frame["finding"] for frame in frames if frame["type"] == "flow_run_finding"]
    assert [it["id"] for it in shown] == ["JUN-1-01", "JUN-1-01"]
    assert shown[0]["citations"][0]["state"] == "verified"
    assert shown[-1]["state"] == "confirmed"
    assert report.counts["warning"] == 1
    assert report.complete


async def test_an_invented_citation_never_stands(tmp_path: Path) -> None:
    def invents(order: AgentOrder) -> dict[str, Any]:
        if order.ref.step_id == "review.general.1":
            invented = "this line is in no file of the tree"
            return found(finding("src/a.py", 1, invented, severity="critical"))
        return NOTHING_FOUND

    async with house(tmp_path, agent=FakeAgent(invents)) as home:
        run_id = await home.launch()
        frames = await home.end_of(run_id)
        report = await report_of(home, run_id)
    assert report.citations.unverified == 1
    assert report.counts.get("critical", 0) == 0
    assert "unsuitable" in report.headline
    assert steps(frames, "validate") == ["skipped"], "there is nothing to judge"


async def test_a_broken_answer_gets_one_repair(tmp_path: Path) -> None:
    prompts: list[str] = []

    def clumsy(order: AgentOrder) -> dict[str, Any] | AgentFailure:
        if order.ref.step_id == "review.security":
            prompts.append(order.prompt.user)
            return {"nonsense": True} if len(prompts) == 1 else NOTHING_FOUND
        return NOTHING_FOUND

    async with house(tmp_path, agent=FakeAgent(clumsy)) as home:
        run_id = await home.launch()
        frames = await home.end_of(run_id)
    assert steps(frames, "review.security") == [
        "queued",
        "running",
        "queued",
        "running",
        "completed",
    ]
    assert len(prompts) == 2
    assert prompts[0] != prompts[1]
    assert frames[-1]["status"] == "completed"


async def test_a_failed_specialist_is_named_and_does_not_sink_the_run(tmp_path: Path) -> None:
    def fails(order: AgentOrder) -> dict[str, Any] | AgentFailure:
        if order.ref.step_id == "review.security":
            return AgentFailure(reason="turns_exhausted", message="used all its turns")
        return NOTHING_FOUND

    async with house(tmp_path, agent=FakeAgent(fails)) as home:
        run_id = await home.launch()
        frames = await home.end_of(run_id)
        report = await report_of(home, run_id)
    assert frames[-1]["status"] == "partial"
    assert report.complete is False
    named = {str(step.step_id): step.reason for step in report.coverage.steps}
    assert named["review.security"] == "turns_exhausted"


async def test_a_run_goes_on_at_the_next_start_with_the_same_report(tmp_path: Path) -> None:
    first = FakeAgent(one_finding)
    first.hold()
    async with house(tmp_path, agent=first) as home:
        run_id = await home.launch()
        await first.started(2)
    assert first.running == set()
    async with house(tmp_path, agent=FakeAgent(one_finding)) as home:
        frames = await home.end_of(run_id)
        parked = await report_of(home, run_id)
        other = await home.launch()
        await home.end_of(other)
        plain = await report_of(home, other)
    assert frames[-1]["status"] == "completed"
    assert steps(frames, "review.security")[-1] == "completed"
    assert max(frame.get("attempt", 0) for frame in frames) == 2
    assert same(parked, plain)


async def test_a_stop_while_the_end_of_a_code_step_is_recorded_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded and not known, the step would be parked as one that still runs."""
    recorded, stopped = asyncio.Event(), asyncio.Event()
    plain = SqliteStore.change_step

    async def change_step(
        self: SqliteStore, ref: AttemptRef, change: StepChange, frames: Any
    ) -> None:
        await plain(self, ref, change, frames)
        is_code = change.usage is None and change.status is StepStatus.COMPLETED
        if is_code and not recorded.is_set():
            recorded.set()
            await stopped.wait()

    monkeypatch.setattr(SqliteStore, "change_step", change_step)
    async with house(tmp_path, agent=FakeAgent(one_finding)) as home:
        run_id = await home.launch()
        await recorded.wait()
        stopping = asyncio.create_task(home.podium.runner.stop())
        # Its first act is to cancel the run.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        stopped.set()
        await stopping
    async with house(tmp_path, agent=FakeAgent(one_finding)) as home:
        frames = await home.end_of(run_id)
    assert frames[-1]["status"] == "completed"
    assert sum(frame["type"] == "flow_run_finished" for frame in frames) == 1


async def test_a_disk_that_stays_full_holds_no_stop_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(runner, "STOP_SECONDS", 0.1)
    agent = FakeAgent(one_finding)
    agent.hold()
    async with house(tmp_path, agent=agent) as home:
        run_id = await home.launch()
        await agent.started(2)
        with monkeypatch.context() as disk:
            disk.setattr(SqliteStore, "change_step", full)
            disk.setattr(SqliteStore, "finish_run", full)
            async with asyncio.timeout(10):
                await home.podium.runner.stop()
            assert not [task for task in asyncio.all_tasks() if "run " in task.get_name()]
    async with house(tmp_path, agent=FakeAgent(one_finding)) as home:
        frames = await home.end_of(run_id)
    assert frames[-1]["status"] == "completed"
    assert sum(frame["type"] == "flow_run_finished" for frame in frames) == 1


async def test_without_slots_the_others_wait_and_say_so(tmp_path: Path) -> None:
    agent = FakeAgent(slots=1)
    agent.hold()
    async with house(tmp_path, agent=agent) as home:
        run_id = await home.launch()
        await agent.started(1)
        assert len(agent.running) == 1
        agent.release()
        frames = await home.end_of(run_id)
    assert frames[-1]["status"] == "completed"


# ── read-only ────────────────────────────────────────────────────────────────────────────────────


async def test_an_attempt_that_is_not_proven_ends_the_whole_run(tmp_path: Path) -> None:
    """Others are stopped, nothing of it is used, and the report leads with it."""
    agent = FakeAgent()

    def culprit(order: AgentOrder) -> dict[str, Any] | AgentFailure:
        if order.ref.step_id == "review.security":
            return AgentFailure(
                reason="read_only_unproven", message="the copy changed", retryable=True
            )
        return NOTHING_FOUND

    def receipt(order: AgentOrder) -> Receipt:
        changed = "u" if order.ref.step_id == "review.security" else "t"
        return msgspec.structs.replace(RECEIPT, tree_after=changed)

    agent.answer, agent.receipt = culprit, receipt
    agent.hold("review.general.1")
    async with house(tmp_path, agent=agent) as home:
        run_id = await home.launch()
        frames = await home.end_of(run_id)
        report = await report_of(home, run_id)
        text = (await home.http.get(f"/api/runs/{run_id}/report.md")).text
    assert (frames[-1]["status"], frames[-1]["reason"]) == ("failed", "read_only_unproven")
    assert steps(frames, "review.security")[-1] == "failed"
    assert steps(frames, "review.security").count("running") == 1, "it is not tried again"
    assert steps(frames, "review.general.1")[-1] == "cancelled"
    receipts = [it["step_id"] for it in frames if it["type"] == "flow_run_step_receipt"]
    assert "review.general.1" in receipts, "what is cancelled has its receipt too"
    assert report.headline.startswith("Failed: read-only could not be proven")
    assert report.meta["read_only"]["verdict"] == "violated"
    told = next(frame for frame in frames if frame["type"] == "flow_run_report")
    assert (
        told["read_only"] == "Read-only: VIOLATED. Review.security: the copy changed while it ran."
    )
    assert text.index("## Read-only") < text.index("## Coverage")


async def test_a_repository_that_changes_meanwhile_only_makes_the_report_stale(
    tmp_path: Path,
) -> None:
    agent = FakeAgent()
    agent.receipt = lambda order: msgspec.structs.replace(
        RECEIPT, repository_before="r", repository_after=order.ref.step_id
    )
    async with house(tmp_path, agent=agent) as home:
        run_id = await home.launch()
        frames = await home.end_of(run_id)
        report = await report_of(home, run_id)
    assert frames[-1]["status"] == "completed"
    assert report.meta["stale"] is True
    assert next(it for it in frames if it["type"] == "flow_run_report")["stale"] is True


async def test_an_agent_that_nobody_contained_is_told_as_not_proven(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        run_id = await home.launch()
        frames = await home.end_of(run_id)
        report = await report_of(home, run_id)
    assert frames[-1]["status"] == "completed"
    told = report.meta["read_only"]
    assert (told["verdict"], told["proven"], told["attempts"]) == ("not_proven", 0, 2)
    assert report.meta["stale"] is False
