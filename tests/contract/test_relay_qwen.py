"""The real CLI through the relay: what it asks passes, and what it would hide is known at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from protocol.ids import RunId, StepId
from server.agents.invocation import ALLOWED_TOOLS
from server.agents.relay import Relay
from server.agents.relay_pass import Notice, Pass
from server.agents.relay_rules import Admission
from server.demo.app import Behaviour
from server.ports import AttemptRef, ModelEndpoint
from server.world import SystemClock
from tests.contract.test_qwen_cli import GOOD, Bench
from tests.fakes.model import FakeModel, calls, cuts_json, refuses, serving

pytestmark = [pytest.mark.real_agent, pytest.mark.timeout(90)]


class Relayed:
    """The runner's bench, with the relay between its agent and the model."""

    def __init__(self, bench: Bench, given: Pass, model: FakeModel) -> None:
        self.bench = bench
        self.given = given
        self.model = model
        self.notices: list[Notice] = []

    async def fails(self) -> str:
        """Run until the relay knows of a failure; its reason. The agent is killed then."""
        running = asyncio.create_task(self.bench.run())
        await self.given.changed.wait()
        assert not running.done(), "the agent knows nothing of it"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await self.given.close()
        assert self.bench.processes() == []
        assert self.given.failure is not None
        return self.given.failure.reason


@asynccontextmanager
async def relayed(place: Path, *behaviours: Behaviour) -> AsyncIterator[Relayed]:
    model = FakeModel(*behaviours)
    async with (
        serving(model.app) as url,
        Relay(place / "relay", clock=SystemClock(), chance=lambda: 0.0) as relay,
    ):
        notices: list[Notice] = []
        admission = Admission(
            ref=AttemptRef(RunId("r"), StepId("s"), 1),
            endpoint=ModelEndpoint(name="d", base_url=url, api_key="sk-real", model="fake"),
            tools=ALLOWED_TOOLS,
            answer_tokens=777,
            requests=20,
            total_tokens=None,
            answer_bytes=1_000_000,
        )
        given = relay.admit(admission, notices.append)
        bench = Bench(place, relay.url)
        bench.endpoint = ModelEndpoint(
            name="d", base_url=relay.url, api_key=given.token, model="fake"
        )
        found = Relayed(bench, given, model)
        found.notices = notices
        yield found
        await given.close()


async def test_a_whole_conversation_passes_without_a_surprise(tmp_path: Path) -> None:
    read = calls("read_file", {"file_path": str(tmp_path / "tree" / "a.py")})
    async with relayed(tmp_path, read, refuses(503), GOOD) as here:
        result = await here.bench.run()
        given = here.given
        assert result.failure is None
        assert result.raw == {"word": "yes", "end": "complete"}
        assert (given.failure, given.surprises) == (None, [])
        assert given.requests == 2
        assert given.finish_reasons == ["tool_calls", "tool_calls"]
        assert given.usage.input_tokens == result.usage.input_tokens > 0
        assert [notice.code for notice in here.notices] == ["endpoint_overloaded"]


async def test_its_minutes_of_silence_are_named_at_once(tmp_path: Path) -> None:
    async with relayed(tmp_path, refuses(429, "slow down")) as here:
        assert await here.fails() == "rate_limited"
        assert len(here.model.requests) == 3


async def test_a_cut_result_that_it_would_call_a_success_is_a_failure(tmp_path: Path) -> None:
    """Straight to the model, as the control, the CLI completes the cut object by itself."""
    cut = cuts_json("structured_output", {"end": "complete", "word": "x" * 400})
    async with relayed(tmp_path, cut) as here:
        assert await here.fails() == "answer_cut"
        assert here.given.finish_reasons == ["length"]
        here.bench.endpoint = here.given.admission.endpoint
        straight = await here.bench.run()
        assert straight.failure is None
        assert 0 < len(straight.raw["word"]) < 400
