"""The states of runs and steps, and the table of every legal move between them."""

from enum import StrEnum


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    PARTIAL = "partial"
    """A report exists, but a step it wanted did not deliver."""
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return not RUN_MOVES[self]


class StepStatus(StrEnum):
    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def terminal(self) -> bool:
        return not STEP_MOVES[self]


RUN_MOVES: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.CANCELLING, RunStatus.FAILED}),
    RunStatus.RUNNING: frozenset(
        {RunStatus.CANCELLING, RunStatus.COMPLETED, RunStatus.PARTIAL, RunStatus.FAILED}
    ),
    RunStatus.CANCELLING: frozenset({RunStatus.CANCELLED, RunStatus.FAILED}),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.PARTIAL: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}

STEP_MOVES: dict[StepStatus, frozenset[StepStatus]] = {
    # pending → completed is a step reused from the run that this one repeats.
    StepStatus.PENDING: frozenset(
        {
            StepStatus.QUEUED,
            StepStatus.RUNNING,
            StepStatus.COMPLETED,
            StepStatus.SKIPPED,
            StepStatus.CANCELLED,
        }
    ),
    StepStatus.QUEUED: frozenset(
        {StepStatus.RUNNING, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED}
    ),
    # running → queued is the next attempt: a retry, or a restart of the server.
    StepStatus.RUNNING: frozenset(
        {StepStatus.QUEUED, StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.CANCELLED}
    ),
    StepStatus.COMPLETED: frozenset(),
    StepStatus.FAILED: frozenset(),
    StepStatus.CANCELLED: frozenset(),
    StepStatus.SKIPPED: frozenset(),
}


class IllegalMove(ValueError):
    """A state change that the tables do not allow. It is a defect, never an outcome."""

    def __init__(self, current: StrEnum, new: StrEnum) -> None:
        super().__init__(f"illegal move: {current.value} → {new.value}")
        self.current = current
        self.new = new


def move_run(current: RunStatus, new: RunStatus) -> RunStatus:
    """Return `new`, or raise IllegalMove when the table has no such move."""
    if new not in RUN_MOVES[current]:
        raise IllegalMove(current, new)
    return new


def move_step(current: StepStatus, new: StepStatus) -> StepStatus:
    """Return `new`, or raise IllegalMove when the table has no such move."""
    if new not in STEP_MOVES[current]:
        raise IllegalMove(current, new)
    return new
