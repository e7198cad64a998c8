"""The real CLI through the relay: what it asks passes, and what it would hide is known at once."""

from pathlib import Path

import pytest

from protocol.frames import FlowRunStepNotice
from server.agents.relay import chat
from tests.contract.test_qwen_cli import GOOD, Bench, bench
from tests.fakes.model import calls, cuts_json, refuses

pytestmark = [pytest.mark.real_agent, pytest.mark.timeout(90)]

CUT = cuts_json("structured_output", {"end": "complete", "word": "x" * 400})


def notices(here: Bench) -> list[str]:
    return [frame.code for frame in here.frames if isinstance(frame, FlowRunStepNotice)]


async def test_a_whole_conversation_passes_and_a_hiccup_is_told_once(tmp_path: Path) -> None:
    read = calls("read_file", {"file_path": str(tmp_path / "tree" / "a.py")})
    async with bench(tmp_path, read, refuses(503), GOOD) as (here, model):
        result = await here.run()
    assert result.failure is None
    assert result.raw == {"word": "yes", "end": "complete"}
    assert len(model.requests) == 3
    assert result.usage.requests == 2, "a repeat of the relay is no request of the agent"
    assert result.usage.input_tokens > 0
    assert notices(here) == ["endpoint_overloaded"]


async def test_its_minutes_of_silence_are_named_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path, refuses(429, "slow down")) as (here, model):
        result = await here.run()
        assert here.processes() == []
    assert result.failure is not None
    assert (result.failure.reason, result.failure.retryable) == ("rate_limited", True)
    assert len(model.requests) == 3
    assert notices(here) == ["rate_limited"]


async def test_a_cut_result_is_a_failure(tmp_path: Path) -> None:
    async with bench(tmp_path, CUT) as (here, _):
        result = await here.run()
    assert result.failure is not None
    assert result.failure.reason == "answer_cut"


async def test_without_the_relays_look_the_cli_would_call_it_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "must_deliver", lambda asked, admission: False)
    async with bench(tmp_path, CUT) as (here, _):
        result = await here.run()
    assert result.failure is None
    assert 0 < len(result.raw["word"]) < 400
