"""A pane that has everything gets what is published at once; whatever else there is comes first."""

from pathlib import Path
from typing import Any

import pytest

from protocol.frames import Channel, FlowRunStepDelta
from server.channel.session import Session
from server.ports import AgentOrder, AgentResult, Emit
from tests.fakes.agent import FakeAgent
from tests.server.harness import house

TEXTS, PINGS = 40, 10


class Speaker(FakeAgent):
    """One of its attempts says something TEXTS times, each in a tick of its own."""

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        if order.ref.step_id == "review.security":
            for number in range(TEXTS):
                await emit([_said(order, number)])
        return await super().run(order, emit)


def _said(order: AgentOrder, number: int) -> FlowRunStepDelta:
    ref = order.ref
    channel = Channel.THINKING if number % 2 else Channel.TEXT
    return FlowRunStepDelta(
        run_id=ref.run_id, step_id=ref.step_id, attempt=ref.attempt, channel=channel,
        offset=number, text="x",
    )  # fmt: skip


@pytest.mark.parametrize("express", [True, False])
async def test_what_is_published_goes_without_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, express: bool
) -> None:
    """The control: without it the writer wakes up at every tick. The log arrives all the same."""
    rounds = 0
    round_ = Session._round

    async def counted(session: Session) -> bool:
        nonlocal rounds
        rounds += 1
        return await round_(session)

    monkeypatch.setattr(Session, "_round", counted)
    if not express:
        monkeypatch.setattr(Session, "_express", lambda session, batch: False)
    async with house(tmp_path, agent=Speaker()) as home, home.socket() as wire:
        run_id = await home.launch()
        await wire.send(type="subscribe", id="s", run_id=run_id)
        frames = [frame async for frame in wire.frames_of(run_id)]
        live = rounds
        assert [it["seq"] for it in frames] == list(range(1, len(frames) + 1))
        assert [it for it in await home.end_of(run_id) if "at" in it] == frames
    assert (live >= TEXTS) is not express


async def test_a_control_frame_that_waits_leaves_first(tmp_path: Path) -> None:
    """An answer to every message while frames come: order and count of both stay."""
    async with house(tmp_path, agent=Speaker()) as home, home.socket() as wire:
        run_id = await home.launch()
        await wire.send(type="subscribe", id="s", run_id=run_id)
        for number in range(PINGS):
            await wire.send(type="ping", id=str(number))
        got: list[dict[str, Any]] = []
        while not got or got[-1]["type"] != "flow_run_finished":
            got.append(await wire.receive())
    answers = [it["id"] for it in got if it["type"] == "flow_run_ack"]
    assert answers.count("s") == 1
    assert sorted(set(answers) - {"s"}, key=int) == [str(number) for number in range(PINGS)]
    seqs = [it["seq"] for it in got if it.get("run_id") == run_id and "at" in it]
    assert seqs == list(range(1, len(seqs) + 1))
    told = [it["type"] for it in got]
    subscribed = told.index("flow_run_subscribed")
    assert all("at" not in it for it in got[:subscribed])
