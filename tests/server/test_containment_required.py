"""Where agents must be contained and cannot be: said at the start, and nothing is started."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from server.agents.containment import ladder
from server.agents.qwen_runner import Guards, QwenRunner
from server.ports import AgentUnavailable
from server.world import SystemClock

pytestmark = pytest.mark.real_agent


@pytest.fixture
def _no_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "_on_path", lambda: None)


async def started(place: Path, guards: Guards) -> list[str]:
    """The warnings of a runner that starts, tries its containment, and stops."""
    runner = QwenRunner(place, clock=SystemClock(), guards=guards)
    with capture_logs() as told:
        await runner.start()
        try:
            await asyncio.wait(
                [task for task in asyncio.all_tasks() if task.get_name() == "containment"]
            )
        finally:
            await runner.stop()
    return [f"{entry['event']}: {entry['why']}" for entry in told if "why" in entry]


@pytest.mark.usefixtures("_no_bubblewrap")
@pytest.mark.parametrize("required", [True, False])
async def test_a_host_without_it_is_told_at_the_start(tmp_path: Path, required: bool) -> None:
    guards = Guards(required=required)
    assert await started(tmp_path, guards) == ["not_contained: bubblewrap is not installed"]


async def test_where_it_is_switched_off_that_is_told_too(tmp_path: Path) -> None:
    told = await started(tmp_path, Guards(contained=False))
    assert told == ["not_contained: containment is switched off"]


async def test_nothing_is_told_where_nothing_is_missing(tmp_path: Path) -> None:
    assert await started(tmp_path, Guards(required=True)) == []


async def test_a_try_that_breaks_is_told_and_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def vanished(*_: object) -> None:
        raise FileNotFoundError("the program went while it was tried")

    monkeypatch.setattr(ladder, "examine", vanished)
    runner = QwenRunner(tmp_path, clock=SystemClock())
    with capture_logs() as told:
        await runner.start()
        await asyncio.wait(
            [task for task in asyncio.all_tasks() if task.get_name() == "containment"]
        )
        await runner.stop()
    assert [entry["event"] for entry in told] == ["containment_not_tried"]


@pytest.mark.usefixtures("_no_bubblewrap")
async def test_no_agent_is_started_where_it_is_required(tmp_path: Path) -> None:
    required = QwenRunner(tmp_path, clock=SystemClock(), guards=Guards(required=True))
    with pytest.raises(AgentUnavailable) as refused:
        await required.check()
    assert refused.value.reason == "containment_missing"
    assert "filesystem, network, processes" in refused.value.message
    assert refused.value.hint
    # The same host, where it is not required: the agent may start, and every receipt says so.
    assert await QwenRunner(tmp_path, clock=SystemClock(), guards=Guards()).check()
