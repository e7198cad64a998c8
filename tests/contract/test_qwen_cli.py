"""The contract with the real CLI: what podium relies on, measured against the pinned version."""

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from flows.briefing import Prompt
from protocol.frames import FlowRunStepDelta, FlowRunStepTool, ToolStatus
from protocol.ids import RunId, StepId
from protocol.resources import Proof
from server.agents import installation
from server.agents.qwen_runner import Guards, QwenRunner
from server.demo.app import Behaviour
from server.demo.wire import Turn
from server.ports import (
    AgentFrame,
    AgentOrder,
    AgentResult,
    AgentUnavailable,
    AttemptCancelled,
    AttemptLimits,
    AttemptRef,
    ModelEndpoint,
)
from server.world import SystemClock
from tests.fakes.model import FakeModel, Gate, calls, fixed, refuses, says, serving
from tests.fakes.scripted import until

pytestmark = [pytest.mark.real_agent, pytest.mark.timeout(90)]

SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "minLength": 2}, "end": {"const": "complete"}},
    "required": ["word", "end"],
    "additionalProperties": False,
}
GOOD = calls("structured_output", {"word": "yes", "end": "complete"})
TOOLS = ["glob", "grep_search", "read_file", "structured_output"]


class Bench:
    """The real runner on a tree of one file, with a model that does as the test says."""

    def __init__(
        self, place: Path, url: str, *, contained: bool = True, data: str = "data"
    ) -> None:
        self.place = place
        self.tree, self.repository = place / "tree", place / "project"
        for folder in (self.tree, self.repository):
            folder.mkdir(exist_ok=True)
            (folder / "a.py").write_text("A = 1\n")
        self.runner = QwenRunner(
            place / data,
            clock=SystemClock(),
            guards=Guards(contained=contained, required=contained),
            keep_attempts=True,
        )
        self.endpoint = ModelEndpoint(name="d", base_url=url, api_key="the-key", model="fake")
        self.frames: list[AgentFrame] = []
        self._open = False

    async def emit(self, frames: Sequence[AgentFrame]) -> None:
        self.frames += frames

    async def run(self, prompt: str = "Say yes.", **limits: Any) -> AgentResult:
        async with self.open():
            return await self.runner.run(self.order(prompt, **limits), self.emit)

    def order(
        self,
        prompt: str = "Say yes.",
        *,
        seconds: float = 60,
        first_byte: float | None = None,
        idle: float | None = None,
        turns: int = 8,
        tool_calls: int = 20,
        answer_tokens: int = 777,
    ) -> AgentOrder:
        limits = AttemptLimits(
            turns=turns,
            tool_calls=tool_calls,
            answer_tokens=answer_tokens,
            context_tokens=None,
            total_seconds=seconds,
            first_byte_seconds=first_byte or seconds,
            idle_seconds=idle or seconds,
        )
        return AgentOrder(
            ref=AttemptRef(RunId(str(uuid.uuid4())), StepId("s"), 1),
            session_id=str(uuid.uuid4()),
            prompt=Prompt(system="You are a test.", user=prompt),
            schema=SCHEMA,
            tree=self.tree,
            repository=self.repository,
            endpoint=self.endpoint,
            limits=limits,
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """The runner started, unless it is; stopped again by whoever started it."""
        if self._open:
            yield
            return
        self._open = True
        try:
            await self.runner.start()
            yield
        finally:
            await self.runner.stop()
            self._open = False

    def processes(self) -> list[int]:
        """Living processes that carry this bench's place in their environment or arguments."""
        marker = str(self.place).encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if marker in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@asynccontextmanager
async def bench(place: Path, *behaviours: Behaviour) -> AsyncIterator[tuple[Bench, FakeModel]]:
    model = FakeModel(*behaviours)
    async with serving(model.app) as url:
        here = Bench(place, url)
        async with here.open():
            yield here, model


async def test_the_agent_is_offered_three_tools_and_delivers(tmp_path: Path) -> None:
    async with bench(tmp_path, GOOD) as (here, model):
        result = await here.run()
    assert result.failure is None
    assert result.raw == {"word": "yes", "end": "complete"}
    assert result.receipt is not None
    assert list(result.receipt.tools) == TOOLS
    assert result.receipt.mode == "plan"
    assert result.receipt.tree_before == result.receipt.tree_after
    offered = sorted(tool.function.name for tool in model.requests[0].tools or [])
    assert offered == TOOLS, "what the model is offered is what the first line says"


async def test_a_model_that_writes_writes_nothing(tmp_path: Path) -> None:
    target = str(tmp_path / "tree" / "written.py")
    async with bench(
        tmp_path,
        calls("write_file", {"file_path": target, "content": "x"}),
        calls("run_shell_command", {"command": f"touch {target}"}),
        calls("enter_worktree", {"name": "evil"}),
        calls("edit", {"file_path": f"{tmp_path}/tree/a.py", "old_string": "1", "new_string": "2"}),
        GOOD,
    ) as (here, _):
        result = await here.run()
    assert sorted(path.name for path in here.tree.iterdir()) == ["a.py"]
    assert (here.tree / "a.py").read_text() == "A = 1\n"
    tools = [frame for frame in here.frames if isinstance(frame, FlowRunStepTool)]
    writers = [tool for tool in tools if tool.name != "structured_output"]
    assert {tool.status for tool in writers} <= {
        ToolStatus.RUNNING, ToolStatus.FAILED, ToolStatus.DENIED,
    }  # fmt: skip
    assert result.receipt is not None
    assert result.receipt.tree_before == result.receipt.tree_after


@pytest.mark.parametrize("start", ["/init", "@/etc/hostname", "  /help"])
async def test_a_prompt_is_text_behind_our_own_words(tmp_path: Path, start: str) -> None:
    async with bench(tmp_path, GOOD) as (here, model):
        result = await here.run(f"Read this as text: {start}")
    assert result.failure is None
    assert not (here.tree / "QWEN.md").exists()
    hostname = await asyncio.to_thread(Path("/etc/hostname").read_text)
    asked = str(model.requests[0].messages)
    assert not hostname.strip() or hostname.strip() not in asked


async def test_plain_text_can_be_repaired(tmp_path: Path) -> None:
    async with bench(tmp_path, says("I would rather talk.")) as (here, _):
        result = await here.run()
    assert result.failure is not None
    assert (result.failure.reason, result.failure.repairable) == ("plain_text", True)
    text = "".join(frame.text for frame in here.frames if isinstance(frame, FlowRunStepDelta))
    assert "rather talk" in text


async def test_an_answer_against_the_schema_goes_back_to_the_model(tmp_path: Path) -> None:
    bad = calls("structured_output", {"word": "y", "end": "complete"})
    async with bench(tmp_path, bad, GOOD) as (here, model):
        result = await here.run()
    assert result.raw == {"word": "yes", "end": "complete"}
    assert len(model.requests) == 2


async def test_a_refused_key_has_its_reason(tmp_path: Path) -> None:
    async with bench(tmp_path, refuses(401)) as (here, _):
        result = await here.run()
    assert result.failure is not None
    assert result.failure.reason == "endpoint_refused_key"
    assert not result.failure.retryable


async def test_a_long_answer_arrives_whole(tmp_path: Path) -> None:
    words = " ".join(str(number) for number in range(20_000))
    async with bench(tmp_path, fixed(Turn(words))) as (here, _):
        result = await here.run(answer_tokens=100_000)
    text = "".join(
        frame.text
        for frame in here.frames
        if isinstance(frame, FlowRunStepDelta) and frame.channel == "text"
    )
    assert text == words
    assert result.failure is not None


async def test_a_cancelled_attempt_leaves_no_process(tmp_path: Path) -> None:
    gate = Gate()
    async with bench(tmp_path, gate.hold(GOOD)) as (here, model):
        running = asyncio.create_task(here.run())
        await model.arrived(1)
        assert here.processes()
        running.cancel()
        with pytest.raises(AttemptCancelled) as cancelled:
            await running
        assert here.processes() == []
    result = cancelled.value.result
    assert result.failure is None
    assert result.usage.requests == 1
    assert result.receipt is not None
    assert result.receipt.proven is Proof.YES
    assert result.receipt.ended_at


async def test_silence_is_ended_by_our_clock(tmp_path: Path) -> None:
    async with bench(tmp_path, Gate().hold(GOOD)) as (here, _):
        result = await here.run(seconds=4)
        assert here.processes() == []
    assert result.failure is not None
    assert result.failure.reason in ("first_byte_timeout", "total_timeout")


async def test_a_write_into_the_copy_is_seen(tmp_path: Path) -> None:
    """The guard's own proof: when something changes the copy, the attempt does not count."""
    gate = Gate()
    async with bench(tmp_path, gate.hold(GOOD)) as (here, model):
        running = asyncio.create_task(here.run())
        await model.arrived(1)
        await asyncio.to_thread((here.tree / "a.py").write_text, "A = 2\n")
        gate.open()
        result = await running
    assert result.failure is not None
    assert result.failure.reason == "read_only_unproven"


@pytest.mark.parametrize("contained", [True, False])
async def test_nothing_outlives_a_killed_server(tmp_path: Path, contained: bool) -> None:
    script = (
        "import asyncio, pathlib, sys\n"
        "from tests.contract.test_qwen_cli import attempt_of_a_server\n"
        "asyncio.run(attempt_of_a_server(pathlib.Path(sys.argv[1]), *sys.argv[2:]))\n"
    )
    async with bench(tmp_path, Gate().hold(GOOD)) as (here, model):
        words = ["-c", script, str(tmp_path), here.endpoint.base_url, str(contained)]
        server = await asyncio.create_subprocess_exec(sys.executable, *words)
        await model.arrived(1)
        assert here.processes()
        server.kill()
        await until(lambda: here.processes() == [], seconds=2)
        await server.wait()


async def attempt_of_a_server(place: Path, url: str, contained: str) -> None:
    here = Bench(place, url, contained=contained == "True", data="its-data")
    await here.run()


async def test_an_old_or_missing_qwen_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "install_directory", lambda: tmp_path)
    runner = QwenRunner(tmp_path / "data", clock=SystemClock())
    with pytest.raises(AgentUnavailable) as missing:
        await runner.check()
    assert missing.value.reason == "qwen_missing"
    package = tmp_path / "node_modules" / "@qwen-code" / "qwen-code" / "package.json"
    package.parent.mkdir(parents=True)
    package.write_text(json.dumps({"version": "0.15.10"}))
    with pytest.raises(AgentUnavailable) as old:
        await runner.check()
    assert old.value.reason == "qwen_too_old"
    assert old.value.hint == "run `podium setup`"
