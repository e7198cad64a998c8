"""A step that is tried again waits first: as long as the endpoint asked for, in jitter, bounded."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from protocol.frames import StoredFrame
from server.agents.reasons import FailureReason, failure
from server.ports import AgentFailure, AgentOrder, AttemptRef, StepChange
from server.runs.back_off import BASE, CAP, LONGEST, bounded, pause
from server.stores.sqlite import SqliteStore
from server.world import SystemClock
from tests.fakes.agent import NOTHING_FOUND, FakeAgent
from tests.server.harness import WAIT_SECONDS, House, house

pytestmark = pytest.mark.timeout(60)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
STEP = "review.security"


def limited(seconds: float | None) -> AgentFailure:
    return failure(FailureReason.RATE_LIMITED, "h answers HTTP 429", retry_after=seconds)


def test_the_endpoint_is_left_alone_as_long_as_it_asks_and_jitter_comes_on_top() -> None:
    assert pause(limited(None), retries=1, chance=0.5) == BASE
    assert pause(limited(None), retries=9, chance=1.0) == CAP
    assert pause(limited(120), retries=1, chance=0.0) == 120
    assert pause(limited(120), retries=1, chance=0.5) == 120 + BASE
    assert pause(None, retries=2, chance=0.5) == 2 * BASE


@pytest.mark.parametrize("seconds", [None, 0.0, 31.0, LONGEST])
def test_what_can_be_waited_for_is(seconds: float | None) -> None:
    assert bounded(limited(seconds), now=NOW) == limited(seconds)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (LONGEST + 1, "for 10 min, until 2026-01-31 12:10 UTC: run it again then"),
        (86_400.0, "for 24 h, until 2026-02-01 12:00 UTC: run it again then"),
    ],
)
def test_what_cannot_is_final_and_says_until_when(seconds: float, words: str) -> None:
    found = bounded(limited(seconds), now=NOW)
    assert (found.reason, found.retryable) == ("rate_limited", False)
    assert words in found.message


class HeldClock(SystemClock):
    """Sleeps of minutes end when the test says so; all others are real, the housekeeping too."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.cancelled = 0
        self.pausing = asyncio.Event()
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if not 60 < seconds < LONGEST:
            await super().sleep(seconds)
            return
        self.slept.append(seconds)
        self.pausing.set()
        try:
            await self.over.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def busy(seconds: float, *, times: int = 1) -> FakeAgent:
    """An agent whose endpoint asks to be left alone, so many times at one step."""
    left = [limited(seconds)] * times

    def answer(order: AgentOrder) -> dict[str, Any] | AgentFailure:
        return left.pop() if left and order.ref.step_id == STEP else NOTHING_FOUND

    return FakeAgent(answer)


def moves(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        frame
        for frame in frames
        if frame["type"] == "flow_run_step_status" and frame["step_id"] == STEP
    ]


async def paused(home: House, clock: HeldClock) -> str:
    """A run whose one step waits for its endpoint, while all the others have ended."""
    run_id = await home.launch()
    async with asyncio.timeout(WAIT_SECONDS):
        await clock.pausing.wait()
    return run_id


async def test_a_busy_endpoint_is_asked_again_when_it_wants_to_be(tmp_path: Path) -> None:
    clock, agent = HeldClock(), busy(120)
    async with house(tmp_path, agent=agent, clock=clock) as home:
        run_id = await paused(home, clock)
        tries = [order for order in agent.orders if order.ref.step_id == STEP]
        assert len(tries) == 1
        clock.over.set()
        frames = await home.end_of(run_id)
    assert frames[-1]["status"] == "completed"
    assert [move["status"] for move in moves(frames)] == [
        "queued", "running", "queued", "running", "completed",
    ]  # fmt: skip
    (seconds,) = clock.slept
    assert 120 <= seconds <= 120 + 2 * BASE
    waiting = moves(frames)[2]
    assert waiting["reason"] == "rate_limited"
    assert waiting["message"].endswith(f"; podium tries again in {seconds:.0f} s")


async def test_for_hours_nobody_waits(tmp_path: Path) -> None:
    clock = HeldClock()
    async with house(tmp_path, agent=busy(86_400, times=3), clock=clock) as home:
        frames = await home.end_of(await home.launch())
    assert [move["status"] for move in moves(frames)] == ["queued", "running", "failed"]
    assert moves(frames)[-1]["reason"] == "rate_limited"
    assert "left alone for 24 h, until" in moves(frames)[-1]["message"]
    assert clock.slept == []


async def test_a_cancel_ends_the_wait_at_once(tmp_path: Path) -> None:
    clock = HeldClock()
    async with house(tmp_path, agent=busy(500), clock=clock) as home:
        run_id = await paused(home, clock)
        async with home.socket() as wire:
            answer = await wire.ask(type="cancel", id="c", run_id=run_id)
            assert answer["type"] == "flow_run_ack", answer
        frames = await home.end_of(run_id)
    assert frames[-1]["status"] == "cancelled"
    assert moves(frames)[-1]["status"] == "cancelled"
    assert clock.cancelled == 1
    assert not clock.over.is_set()


async def test_a_finish_ends_the_wait_at_once(tmp_path: Path) -> None:
    clock = HeldClock()
    async with house(tmp_path, agent=busy(500), clock=clock) as home:
        run_id = await paused(home, clock)
        async with home.socket() as wire:
            answer = await wire.ask(type="finish", id="f", run_id=run_id)
            assert answer["type"] == "flow_run_ack", answer
        frames = await home.end_of(run_id)
    assert moves(frames)[-1]["status"] == "skipped"
    assert moves(frames)[-1]["reason"] == "finished early"
    assert clock.cancelled == 1
    assert not clock.over.is_set()


async def test_a_stop_of_the_server_does_not_wait(tmp_path: Path) -> None:
    """The next server knows only that it was tried: it waits in jitter alone."""
    clock = HeldClock()
    async with house(tmp_path, agent=busy(500), clock=clock) as home:
        run_id = await paused(home, clock)
    assert clock.cancelled == 1
    again = HeldClock()
    async with house(tmp_path, agent=FakeAgent(), clock=again) as home:
        frames = await home.end_of(run_id)
    assert moves(frames)[-1]["status"] == "completed"
    assert again.slept == []


async def test_a_cancel_while_the_retry_is_recorded_ends_the_step_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log never ends with a step that is queued in a run that is over."""
    change_step = SqliteStore.change_step
    wished = asyncio.Event()

    async def slow(
        store: SqliteStore, ref: AttemptRef, change: StepChange, frames: Sequence[StoredFrame]
    ) -> None:
        await change_step(store, ref, change, frames)
        if change.retried:
            answer = await home.http.post(f"/api/runs/{ref.run_id}/cancel")
            assert answer.is_success, answer.text
            wished.set()

    monkeypatch.setattr(SqliteStore, "change_step", slow)
    async with house(tmp_path, agent=busy(500), clock=HeldClock()) as home:
        frames = await home.end_of(await home.launch())
    assert wished.is_set()
    assert frames[-1]["status"] == "cancelled"
    assert moves(frames)[-1]["status"] == "cancelled"
