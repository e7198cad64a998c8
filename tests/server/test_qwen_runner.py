"""The runner with a stand-in for the agent that misbehaves: every end has its own reason."""

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.briefing import Prompt
from protocol.frames import Channel, FlowRunStepDelta, FlowRunStepNotice
from protocol.ids import RunId, StepId
from server.agents import qwen_runner
from server.agents.installation import Installation
from server.agents.qwen_runner import QwenRunner
from server.ports import (
    AgentFrame,
    AgentOrder,
    AgentResult,
    AttemptLimits,
    AttemptRef,
    Clock,
    ModelEndpoint,
)
from server.world import SystemClock
from tests.fakes import qwen

pytestmark = pytest.mark.timeout(60)
FAKE = Installation(Path(sys.executable), Path(qwen.__file__), "0.24.4")


class RushingClock:
    """Stands still until `started`; from then on every sleep takes `pace` seconds and no time."""

    def __init__(self, *, pace: float) -> None:
        self._pace = pace
        self._time = 1_000.0
        self.started: Callable[[], bool] = lambda: True

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return self._time

    async def sleep(self, seconds: float) -> None:
        if await asyncio.to_thread(self.started):
            self._time += self._pace


class Desk:
    """A runner, a copy of one file, and what was emitted."""

    def __init__(self, place: Path, clock: Clock | None = None) -> None:
        self.place = place
        self.tree = place / "copy"
        self.tree.mkdir(exist_ok=True)
        (self.tree / "a.py").write_text("A = 1\n")
        self.runner = QwenRunner(place / "data", clock=clock or SystemClock(), installed=FAKE)
        self.frames: list[AgentFrame] = []
        self.said = asyncio.Event()
        self.ref = AttemptRef(RunId(str(uuid.uuid4())), StepId("s"), 1)

    async def emit(self, frames: Sequence[AgentFrame]) -> None:
        self.frames += frames
        self.said.set()

    async def run(
        self,
        behaviour: str,
        *,
        prompt: str = "Say yes.",
        first: float = 40,
        idle: float = 40,
        total: float = 50,
    ) -> AgentResult:
        order = AgentOrder(
            ref=self.ref,
            session_id=str(uuid.uuid4()),
            prompt=Prompt(system="You are a test.", user=prompt),
            schema={"type": "object"},
            tree=self.tree,
            repository=self.tree,
            endpoint=ModelEndpoint(
                name="d", base_url=f"http://host:1/{behaviour}", api_key="k", model="m"
            ),
            limits=AttemptLimits(
                turns=8, tool_calls=20, answer_tokens=77, context_tokens=None,
                total_seconds=total, first_byte_seconds=first, idle_seconds=idle,
            ),
        )  # fmt: skip
        return await self.runner.run(order, self.emit)

    def processes(self) -> list[int]:
        """Living processes that carry this desk's place in their environment."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.place).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def has_output(self) -> bool:
        files = list((self.place / "data" / "attempts").glob("*/*/*/stdout.jsonl"))
        return any(file.stat().st_size > 0 for file in files)

    def text(self, channel: Channel = Channel.TEXT) -> str:
        deltas = [it for it in self.frames if isinstance(it, FlowRunStepDelta)]
        return "".join(it.text for it in deltas if it.channel is channel)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    here = Desk(tmp_path)
    yield here
    left = here.processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == [], "no attempt leaves a process"


async def test_a_good_attempt(desk: Desk) -> None:
    result = await desk.run("good", prompt="é 🙂 \ud800 " * 100_000)
    assert result.failure is None
    assert result.raw == qwen.RAW
    assert (result.exit_code, result.denied_tools, result.usage.input_tokens) == (0, 0, 10)
    assert desk.text() == "é 🙂 ? " * 100_000, "the prompt arrived whole, on stdin"
    assert result.receipt is not None
    assert (result.receipt.host, result.receipt.mode) == ("host:1", "plan")
    assert list((desk.place / "data" / "attempts").glob("*/*/*")) == []


@pytest.mark.parametrize(
    ("behaviour", "reason", "retryable", "repairable"),
    [
        ("cut", "cut_output", True, False),
        ("ends_without_result-53", "turns_exhausted", False, False),
        ("ends_without_result-55", "budget_exhausted", False, False),
        ("ends_without_result-130", "interrupted", False, False),
        ("ends_without_result-0", "cut_output", True, False),
        ("api_error", "api_error", True, False),
        ("old_api_error", "endpoint_refused_key", False, False),
        ("endless", "output_limit", False, False),
        ("wrong_mode", "wrong_mode", False, False),
        ("wrong_model", "wrong_model", False, False),
        ("extra_tool", "unexpected_tools", False, False),
        ("mcp_server", "mcp_servers", False, False),
        ("writes", "read_only_unproven", False, False),
        ("adds", "read_only_unproven", False, False),
        ("killed", "killed", True, False),
        ("usage", "usage_error", False, False),
    ],
)
async def test_every_end_has_its_reason(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: str,
    reason: str,
    *,
    retryable: bool,
    repairable: bool,
) -> None:
    monkeypatch.setattr(qwen_runner, "OUTPUT_LIMIT", 2_000_000)
    result = await desk.run(behaviour)
    assert result.failure is not None
    assert (result.failure.reason, result.failure.retryable) == (reason, retryable)
    assert result.failure.repairable == repairable
    assert result.raw is None


async def test_the_words_on_stderr_are_shown_after_a_failure(desk: Desk) -> None:
    result = await desk.run("usage")
    assert result.failure is not None
    assert "Unknown argument: nope" in result.failure.message
    assert desk.text(Channel.STDERR).endswith("Unknown argument: nope\n")
    assert len(desk.text(Channel.STDERR)) <= 4_000


async def test_a_retry_is_shown_between_the_texts(desk: Desk) -> None:
    result = await desk.run("retry")
    assert result.failure is None
    kinds = [type(frame) for frame in desk.frames]
    assert kinds == [FlowRunStepDelta, FlowRunStepNotice, FlowRunStepDelta]


async def test_a_line_of_five_megabytes_is_whole(desk: Desk) -> None:
    result = await desk.run("long_line")
    assert result.failure is None
    assert len(desk.text()) == 5_000_000


@pytest.mark.parametrize(
    ("behaviour", "limits", "reason"),
    [
        ("silent", {"first": 30, "idle": 300, "total": 900}, "first_byte_timeout"),
        ("silent", {"first": 300, "idle": 30, "total": 900}, "first_byte_timeout"),
        ("mute", {"first": 30, "idle": 300, "total": 900}, "first_byte_timeout"),
        ("deaf", {"first": 30, "idle": 300, "total": 900}, "first_byte_timeout"),
        ("stalls", {"first": 300, "idle": 30, "total": 900}, "idle_timeout"),
        ("stalls", {"first": 300, "idle": 300, "total": 90}, "total_timeout"),
    ],
)
async def test_silence_ends_by_its_own_clock(
    tmp_path: Path, behaviour: str, limits: dict[str, float], reason: str
) -> None:
    clock = RushingClock(pace=5)
    desk = Desk(tmp_path, clock)
    clock.started = desk.has_output if behaviour != "mute" else bool_of_processes(desk)
    result = await desk.run(behaviour, prompt="x" * 1_000_000, **limits)
    assert result.failure is not None
    assert result.failure.reason == reason
    assert result.failure.retryable == (reason != "total_timeout")
    assert desk.processes() == []
    limit = min(limits.values())
    passed = clock.monotonic() - 1_000
    assert limit <= passed <= limit + 20 or reason == "first_byte_timeout"


def bool_of_processes(desk: Desk) -> Callable[[], bool]:
    return lambda: bool(desk.processes())


async def test_silence_is_told_before_it_ends(tmp_path: Path) -> None:
    clock = RushingClock(pace=5)
    desk = Desk(tmp_path, clock)
    clock.started = desk.has_output
    await desk.run("stalls", idle=200, total=900)
    notices = [it for it in desk.frames if isinstance(it, FlowRunStepNotice)]
    assert [it.data["seconds"] for it in notices] == [20, 80, 140]
    assert {it.code for it in notices} == {"stalled"}
    assert "host:1" in notices[0].message


async def test_an_agent_that_is_never_silent_still_ends(tmp_path: Path) -> None:
    """The total clock runs also while there is always something to read."""
    desk = Desk(tmp_path)
    result = await desk.run("drips", total=1)
    assert result.failure is not None
    assert result.failure.reason == "total_timeout"
    assert desk.processes() == []


@pytest.mark.parametrize("behaviour", ["stalls", "stubborn", "family", "orphans_and_hangs"])
async def test_a_cancelled_attempt_leaves_no_process(desk: Desk, behaviour: str) -> None:
    running = asyncio.create_task(desk.run(behaviour))
    await desk.said.wait()
    assert desk.processes()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert desk.processes() == []


async def test_what_an_agent_leaves_behind_is_killed_too(desk: Desk) -> None:
    result = await desk.run("orphans")
    assert result.failure is None
    assert desk.processes() == []


@pytest.mark.parametrize("moment", range(0, 40, 3))
async def test_cancelling_at_any_moment_leaves_no_process(desk: Desk, moment: int) -> None:
    """After so many turns of the loop, and once more while it is being killed."""
    running = asyncio.create_task(desk.run("stalls"))
    for _ in range(moment):
        await asyncio.to_thread(lambda: None)
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert desk.processes() == []


async def test_a_failing_log_ends_the_agent(desk: Desk) -> None:
    class Full(Exception):
        pass

    async def emit(_: Sequence[AgentFrame]) -> None:
        raise Full

    desk.emit = emit  # type: ignore[method-assign]  # the log of this test is full
    with pytest.raises(Full):
        await desk.run("stalls")
    assert desk.processes() == []


async def test_an_agent_that_cannot_be_started(desk: Desk) -> None:
    missing = FAKE._replace(node=desk.place / "no-node")
    desk.runner = QwenRunner(desk.place / "data", clock=SystemClock(), installed=missing)
    result = await desk.run("good")
    assert result.failure is not None
    assert (result.failure.reason, result.failure.retryable) == ("spawn_failed", True)


SERVER = """
import asyncio, pathlib, sys
from tests.server.test_qwen_runner import Desk
asyncio.run(Desk(pathlib.Path(sys.argv[1])).run(sys.argv[2]))
"""


@pytest.mark.parametrize("behaviour", ["stalls", "family", "orphans_and_hangs"])
async def test_what_a_killed_server_left_is_reaped(desk: Desk, behaviour: str) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(desk.place), behaviour
    )
    while not (
        await asyncio.to_thread(desk.has_output) and await asyncio.to_thread(recorded, desk)
    ):
        await asyncio.sleep(0)
    server.kill()
    await server.wait()
    assert desk.processes()
    await desk.runner.reap()
    assert desk.processes() == []
    assert not (desk.place / "data" / "attempts").exists()


async def test_only_what_is_beyond_doubt_is_reaped(desk: Desk) -> None:
    """The recorded number belongs to another process by now: this one."""
    record = desk.place / "data" / "attempts" / "r" / "s" / "1" / "process.json"
    record.parent.mkdir(parents=True)
    record.write_text(f'{{"pid": {os.getpid()}, "started": "1", "boot_id": "x"}}')
    (record.parent.parent / "2").mkdir()
    (record.parent.parent / "2" / "process.json").write_text("broken")
    await desk.runner.reap()


def recorded(desk: Desk) -> bool:
    return any((desk.place / "data" / "attempts").glob("*/*/*/process.json"))
