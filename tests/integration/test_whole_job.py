"""The whole job with nothing replaced but the model: the real qwen, a real socket, a real kill."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.responses import Response

from protocol.commands import Launch
from protocol.frames import (
    FlowRunFinding,
    FlowRunFinished,
    FlowRunStepDelta,
    FlowRunStepReceipt,
    FlowRunStepStatus,
    FlowRunStepTool,
    Frame,
    StoredFrame,
)
from protocol.ids import ProjectId, RunId
from protocol.states import RunStatus, StepStatus
from server.client import Client
from server.demo.app import scripted
from server.demo.wire import ChatRequest
from tests.fakes.model import FakeModel, Gate, serving
from tests.integration.documented import as_documented
from tests.integration.servers import Server, podium
from tests.repositories import committed

pytestmark = [pytest.mark.real_agent, pytest.mark.timeout(180)]

FILES = {
    "shop/orders.py": (
        "import subprocess\n\n\n"
        "def export(orders, path, seen=[]):\n"
        "    try:\n"
        '        subprocess.run(f"cp orders.csv {path}", shell=True)\n'
        "    except Exception:\n"
        "        pass\n"
    ),
    "shop/prices.py": "def mean(prices):\n    return sum(prices) / len(prices)\n",
    "README.md": "# A shop\n",
}


def repository(folder: Path) -> Path:
    """A git repository with one commit."""
    return committed(folder, FILES)


def endpoint(url: str) -> Mapping[str, str]:
    return {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k", "OPENAI_MODEL": "podium-demo"}


async def launch(client: Client, command: str, *, key: str) -> RunId:
    projects = (await client.get("/api/projects"))["projects"]
    project_id = ProjectId(projects[0]["id"])
    return await client.launch(Launch(id="1", key=key, project_id=project_id, command=command))


async def all_frames(client: Client, run_id: RunId) -> list[StoredFrame]:
    return [frame async for frame in client.follow(run_id) if isinstance(frame, Frame)]


async def report_of(client: Client, run_id: RunId) -> dict[str, Any]:
    """The report without what may differ between two runs that say the same."""
    report: dict[str, Any] = await client.get(f"/api/runs/{run_id}/report.json")
    report.pop("meta")
    return report


def holding(step_id: str, gate: Gate) -> FakeModel:
    """The scripted model; what it answers to that step waits for the gate."""
    quick = scripted(pace=0)
    held = gate.hold(quick)

    async def answer(request: ChatRequest) -> Response:
        asked = msgspec.json.encode(request).decode()
        return await (held if step_id in asked else quick)(request)

    return FakeModel(answer)


async def test_real_agents_review_a_repository_live(tmp_path: Path) -> None:
    project = repository(tmp_path / "shop")
    model = FakeModel(scripted(pace=0))
    async with (
        serving(model.app) as url,
        podium(tmp_path / "data", project, endpoint(url)) as server,
        server.client() as client,
    ):
        run_id = await launch(client, '/code-review small shop "errors"', key="a")
        frames = await all_frames(client, run_id)
        report = await report_of(client, run_id)
        assert server.place is not None
        documented = await as_documented(server.place, run_id)

    assert {"flow_run_step_receipt", "flow_run_step_tool", "flow_run_report"} <= documented
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    assert isinstance(frames[-1], FlowRunFinished)
    assert frames[-1].status is RunStatus.COMPLETED
    kinds = Counter(type(frame) for frame in frames)
    assert kinds[FlowRunFinished] == 1
    assert kinds[FlowRunStepDelta] > 0
    assert kinds[FlowRunStepTool] > 0
    receipts = [frame.receipt for frame in frames if isinstance(frame, FlowRunStepReceipt)]
    assert len(receipts) == kinds[FlowRunStepReceipt] >= 3
    assert {receipt.mode for receipt in receipts} == {"plan"}
    assert {tool for receipt in receipts for tool in receipt.tools} == {
        "read_file", "glob", "grep_search", "structured_output",
    }  # fmt: skip
    assert all(receipt.tree_before == receipt.tree_after for receipt in receipts)
    assert report["citations"]["total"] > 0
    assert report["citations"]["verified"] == report["citations"]["total"]
    assert report["demo"] is True
    cited = {c["path"] for finding in report["findings"] for c in finding["citations"]}
    assert cited <= set(FILES)


async def test_a_killed_server_delivers_the_same_report(tmp_path: Path) -> None:
    project = repository(tmp_path / "shop")
    gate = Gate()
    model = holding("review.security", gate)
    async with (
        serving(model.app) as url,
        podium(tmp_path / "data", project, endpoint(url)) as server,
    ):
        async with server.client() as client:
            run_id = await launch(client, "/code-review small shop", key="killed")
            seen = await until_a_step_is_done(client, run_id)
            agents = await agent_processes(server)
            assert agents, "the kill is to land while agents run"
            await server.kill()
        await server.start()
        gate.open()
        async with server.client() as client:
            frames = await all_frames(client, run_id)
            disturbed = await report_of(client, run_id)
            other = await launch(client, "/code-review small shop", key="undisturbed")
            await all_frames(client, other)
            undisturbed = await report_of(client, other)

    assert frames[: len(seen)] == seen, "what a pane has shown is never taken back"
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    assert sum(isinstance(frame, FlowRunFinished) for frame in frames) == 1
    assert disturbed == undisturbed
    assert disturbed["citations"]["total"] > 0
    done = Counter(
        frame.step_id
        for frame in frames
        if isinstance(frame, FlowRunStepStatus) and frame.status is StepStatus.COMPLETED
    )
    assert set(done.values()) == {1}, "no completed step ran twice"
    reasons = {frame.reason for frame in frames if isinstance(frame, FlowRunStepStatus)}
    assert "server_restarted" in reasons


async def test_a_stopped_server_goes_on_with_its_runs(tmp_path: Path) -> None:
    project = repository(tmp_path / "shop")
    gate = Gate()
    model = holding("review.security", gate)
    async with (
        serving(model.app) as url,
        podium(tmp_path / "data", project, endpoint(url)) as server,
    ):
        async with server.client() as client:
            run_id = await launch(client, "/code-review small shop", key="stopped")
            await until_a_step_is_done(client, run_id)
            agents = await agent_processes(server)
            assert agents
            assert await server.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in agents)
        await server.start()
        gate.open()
        async with server.client() as client:
            frames = await all_frames(client, run_id)
    reasons = {frame.reason for frame in frames if isinstance(frame, FlowRunStepStatus)}
    assert "server_stopped" in reasons
    last = frames[-1]
    assert isinstance(last, FlowRunFinished)
    assert last.status is RunStatus.COMPLETED


async def until_a_step_is_done(client: Client, run_id: RunId) -> list[StoredFrame]:
    """The frames up to the first agent that delivered."""
    seen: list[StoredFrame] = []
    async for frame in client.follow(run_id):
        assert isinstance(frame, Frame)
        seen.append(frame)
        if isinstance(frame, FlowRunFinding):
            return seen
    raise AssertionError("the run ended before it could be disturbed")


async def agent_processes(server: Server) -> list[str]:
    """The command lines of qwen processes that this server started."""
    assert server.process is not None
    own = await asyncio.to_thread(
        Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text
    )
    return [pid for pid in own.split() if b"cli.js" in Path(f"/proc/{pid}/cmdline").read_bytes()]
