"""The port to what is kept: runs, steps, attempts, and one log of frames per run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from msgspec import Struct

from flows.facts import Facts
from protocol.frames import StoredFrame
from protocol.ids import Gen, PlanId, ProjectId, RunId, Seq, StepId, UserId
from protocol.plan import FlowPlan
from protocol.resources import IndexRow, Project, Receipt, ReportRef, Run, Step, Usage
from protocol.states import RunStatus, StepStatus

T = TypeVar("T")


class NewRun(Struct, frozen=True, kw_only=True):
    """A run to launch. `patches` are the frozen diffs by path that its briefs show."""

    run: Run
    user_id: UserId
    key: str | None
    """The idempotency key; None makes a run of its own."""
    body_hash: str
    """Of the launch body: the same key with another hash is a conflict."""
    command: str
    plan: FlowPlan
    patches: Mapping[str, str]
    facts: Facts
    """The first facts: all pending, or what a rerun reuses."""
    parent_run_id: RunId | None = None


class Launched(Struct, frozen=True):
    run: Run
    created: bool


class RunRecord(Struct, frozen=True, kw_only=True):
    """A run with what only the server knows of it."""

    run: Run
    user_id: UserId
    command: str
    plan: FlowPlan
    finishing: bool
    parent_run_id: RunId | None


class AttemptRef(Struct, frozen=True):
    """Names one attempt of a step: the fence of every write about it.

    `attempt` is the step's current attempt (0 before the first); a write that names another one
    raises Fenced and writes nothing.
    """

    run_id: RunId
    step_id: StepId
    attempt: int


class StepChange(Struct, frozen=True, kw_only=True):
    """A move of a step, with what came of the attempt that it ends, if it ends one."""

    status: StepStatus
    reason: str | None = None
    error: str | None = None
    """A sentence for a person."""
    output: Any = None
    """The checked result as JSON types; kept when the status is completed."""
    session_id: str | None = None
    exit_code: int | None = None
    usage: Usage | None = None
    receipt: Receipt | None = None
    retried: bool = False
    """The attempt is repeated because of infrastructure: counts towards `retries`."""
    repairing: bool = False
    """The attempt is repeated to repair its result: counts towards `repairs`."""
    crashed: bool = False
    """The attempt ended with the server: counts towards `crashes`."""
    denied_tools: int = 0
    """Calls that the attempt was refused."""


class AttemptRecord(Struct, frozen=True, kw_only=True):
    step_id: StepId
    attempt: int
    task_id: str
    session_id: str | None
    started_at: str
    ended_at: str | None
    reason: str | None
    exit_code: int | None
    usage: Usage | None
    receipt: Receipt | None


class LogEntry(Struct, frozen=True, gc=False):
    """A committed frame, ready to send. `outline` says whether an outline shows it."""

    run_id: RunId
    seq: Seq
    data: bytes
    outline: bool


class Page(NamedTuple):
    """What follows a seq, without a hole."""

    entries: Sequence[LogEntry]
    through: Seq
    """Up to here the log was looked at: of what lies between, only `entries` are to be shown. It is
    the seq itself when the frame behind that is not there: the log ends, or it has expired."""


class LogHead(Struct, frozen=True, kw_only=True):
    gen: Gen
    head: Seq
    outline_head: Seq
    """The last frame that an outline shows."""
    floor: Seq
    """Frames up to here have expired; 0 when none has."""
    bases: Sequence[tuple[Gen, Seq]]
    """Where each generation began."""


class StoreError(Exception):
    """The root of what a store raises.

    StoreError
    ├── StoreUnavailable   the disk is full, read-only or broken; nothing was written
    ├── Fenced             the write named an attempt that is no longer current
    ├── KeyConflict        the idempotency key was used with another body
    └── NotStored          no such run, step, plan or project
    """


class StoreUnavailable(StoreError): ...


class Fenced(StoreError): ...


class KeyConflict(StoreError): ...


class NotStored(StoreError): ...


class Store(Protocol):
    """Runs, steps, attempts and one log of frames per run.

    Every mutator is one transaction: rows and the frames that tell of them become durable
    together, and it returns only then. Frames get their `seq` (gap-free per run) and `at` here, in
    the order of the calls, and are handed to the hub after the commit and before the mutator
    returns. Text deltas of one attempt and channel that follow each other may be merged into one
    frame of at most 4 KiB. An illegal move raises IllegalMove and writes nothing.
    """

    async def launch(self, new: NewRun) -> Launched:
        """Make a run durable with `flow_run_created` and `flow_run_planned` (and one
        `flow_run_step_status` for each step that is reused).

        The same user, key and hash return the run made before; raises KeyConflict on another hash,
        and NotStored when the project is not open to the user.
        """
        ...

    async def launched(self, user_id: UserId, key: str, body_hash: str) -> Run | None:
        """The run that this key made before, or None; raises KeyConflict on another hash."""
        ...

    async def get(self, run_id: RunId) -> RunRecord | None: ...

    async def visible(self, user_id: UserId, run_id: RunId) -> RunRecord | None:
        """The run, if it is the user's and of a project that is open to the user; else None.

        A project is open to its members while they are not revoked, and to the operator.
        """
        ...

    async def runs(
        self,
        user_id: UserId,
        *,
        project_id: ProjectId | None,
        before: RunId | None,
        limit: int,
    ) -> list[Run]:
        """Those that are visible to the user, newest first; with `before`, older than that run."""
        ...

    async def index(
        self,
        user_id: UserId,
        *,
        project_id: ProjectId | None,
        before: RunId | None = None,
        only: Sequence[RunId] | None = None,
        limit: int,
    ) -> list[IndexRow]:
        """The rows of the user's run list, newest first; with `before`, older than that run, and
        with `only`, those of these runs that belong to it.

        A row changes only together with a frame of its run that an outline shows.
        """
        ...

    async def steps(self, run_id: RunId) -> list[Step]:
        """In creation (= plan) order."""
        ...

    async def facts(self, run_id: RunId) -> Facts: ...

    async def patches(self, run_id: RunId) -> dict[str, str]: ...

    async def attempts(self, run_id: RunId) -> list[AttemptRecord]: ...

    async def unfinished(self) -> list[RunId]:
        """Runs without a terminal status, oldest first."""
        ...

    async def start_attempt(
        self,
        ref: AttemptRef,
        *,
        task_id: str,
        session_id: str | None,
        frames: Sequence[StoredFrame],
    ) -> AttemptRef:
        """Move a queued or pending step to running; return the new attempt (`ref.attempt` + 1).

        `frames` carry the new attempt's number.
        """
        ...

    async def change_step(
        self, ref: AttemptRef, change: StepChange, frames: Sequence[StoredFrame]
    ) -> None: ...

    async def cancel_step(self, run_id: RunId, step_id: StepId) -> bool:
        """Record the wish to stop one step; False when it has ended already."""
        ...

    async def append(self, ref: AttemptRef, frames: Sequence[StoredFrame]) -> None:
        """Add frames of a running attempt to the log."""
        ...

    async def tell_waiting(self, ref: AttemptRef, frames: Sequence[StoredFrame]) -> None:
        """Add notices about a queued step to the log; `ref` names its latest attempt."""
        ...

    async def change_run(
        self, run_id: RunId, status: RunStatus, frames: Sequence[StoredFrame]
    ) -> bool:
        """Move a run to `running` or `cancelling`; False (and nothing written) when it is there
        already or has ended."""
        ...

    async def request_finish(self, run_id: RunId, frames: Sequence[StoredFrame]) -> bool:
        """Record that the run is to end early; False when that was asked or it has ended."""
        ...

    async def finish_run(
        self,
        run_id: RunId,
        status: RunStatus,
        *,
        report: ReportRef | None,
        report_json: bytes | None,
        error: str | None,
        frames: Sequence[StoredFrame],
    ) -> bool:
        """Write the terminal status by compare-and-set, with the report and the last frames.

        The first writer wins: False (and nothing written) when the run has ended already.
        """
        ...

    async def report(self, run_id: RunId) -> bytes | None:
        """The stored report as JSON."""
        ...

    async def log(self, run_id: RunId) -> LogHead | None: ...

    async def read(
        self, run_id: RunId, *, after: Seq, limit: int, outline: bool = False
    ) -> list[LogEntry]:
        """The next frames after a seq, in order and without a hole: at most `limit` and about
        256 KiB, but at least one if there is one. Folded frames read as if they were not."""
        ...

    async def page(
        self, run_id: RunId, *, after: Seq, outline: bool, make: Callable[[Page], T]
    ) -> T:
        """The same as what `make` makes of it, in the thread that reads: at most 256 KiB as they
        leave over a WebSocket, but at least one if there is one.

        A few pages are read at once, whoever asks; the others wait their turn.
        """
        ...

    async def fold(self) -> bool:
        """Fold the frames of one ended run into compressed pages of the original bytes, which
        `read` inflates unseen; False when there is none left to fold."""
        ...

    async def expire(self, before: str) -> int:
        """Delete the folded frames of runs that ended before a time (RFC 3339); returns how many
        runs. Only this resets a reader."""
        ...

    async def add_project(self, path: Path, name: str) -> Project:
        """Register a project; the same path is the same project."""
        ...

    async def projects(self, user_id: UserId) -> list[Project]:
        """Those that are open to the user."""
        ...

    async def open_project(self, user_id: UserId, project_id: ProjectId) -> Project | None:
        """The project, if it is open to the user."""
        ...

    async def project(self, project_id: ProjectId) -> Project | None: ...

    async def save_plan(self, plan: FlowPlan, patches: Mapping[str, str]) -> None: ...

    async def plan(self, plan_id: PlanId) -> tuple[FlowPlan, dict[str, str]] | None: ...
