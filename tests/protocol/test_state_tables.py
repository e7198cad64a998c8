"""Every pair of states: legal exactly when this table says so."""

from enum import StrEnum
from itertools import product

import pytest

from protocol.states import (
    RUN_MOVES,
    STEP_MOVES,
    IllegalMove,
    RunStatus,
    StepStatus,
    move_run,
    move_step,
)

RUN_PAIRS = {
    ("queued", "running"),
    ("queued", "cancelling"),
    ("queued", "failed"),
    ("running", "cancelling"),
    ("running", "completed"),
    ("running", "partial"),
    ("running", "failed"),
    ("cancelling", "cancelled"),
    ("cancelling", "failed"),
}
STEP_PAIRS = {
    ("pending", "queued"),
    ("pending", "running"),
    ("pending", "completed"),
    ("pending", "skipped"),
    ("pending", "cancelled"),
    ("queued", "running"),
    ("queued", "failed"),
    ("queued", "skipped"),
    ("queued", "cancelled"),
    ("running", "queued"),
    ("running", "completed"),
    ("running", "failed"),
    ("running", "cancelled"),
}


@pytest.mark.parametrize(("current", "new"), list(product(RunStatus, RunStatus)))
def test_every_move_of_a_run(current: RunStatus, new: RunStatus) -> None:
    if (current.value, new.value) in RUN_PAIRS:
        assert move_run(current, new) is new
        return
    with pytest.raises(IllegalMove, match=f"{current.value} → {new.value}"):
        move_run(current, new)


@pytest.mark.parametrize(("current", "new"), list(product(StepStatus, StepStatus)))
def test_every_move_of_a_step(current: StepStatus, new: StepStatus) -> None:
    if (current.value, new.value) in STEP_PAIRS:
        assert move_step(current, new) is new
        return
    with pytest.raises(IllegalMove, match=f"{current.value} → {new.value}"):
        move_step(current, new)


def test_terminal_means_that_no_move_is_left() -> None:
    ended = {"completed", "partial", "failed", "cancelled", "skipped"}
    states: list[RunStatus | StepStatus] = [*RunStatus, *StepStatus]
    assert {state.value for state in states if state.terminal} == ended
    assert {state.value for state in states if not state.terminal}.isdisjoint(ended)


@pytest.mark.parametrize("table", [RUN_MOVES, STEP_MOVES])
def test_every_state_can_come_to_an_end(table: dict[StrEnum, frozenset[StrEnum]]) -> None:
    for state in table:
        reached, edge = {state}, {state}
        while edge:
            edge = {new for old in edge for new in table[old]} - reached
            reached |= edge
        assert any(not table[end] for end in reached)
