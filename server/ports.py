"""The ports of the server: what its rooms promise one another.

The runner, the channel and the routes know only these; `app.py` joins them with the stores, hubs
and agents that keep the promises.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from flows.briefing import Prompt
from flows.facts import Facts, TreeView
from flows.situation import Situation
from flows.slash import Invocation
from protocol.frames import (
    FlowRunStepDelta,
    FlowRunStepNotice,
    FlowRunStepTool,
    StoredFrame,
)
from protocol.ids import Gen, PlanId, ProjectId, RunId, Seq, StepId, UserId
from protocol.plan import Endpoint, FlowPlan
from protocol.resources import Project, Receipt, ReportRef, Run, Step, Usage
from protocol.states import RunStatus, StepStatus

# --- time and names -----------------------------------------------------------------------------


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Ids(Protocol):
    def uuid(self) -> str:
        """A new UUID, in lower case."""
        ...

    def marker(self) -> str:
        """A new unguessable word of letters and digits, to fence untrusted text with."""
        ...


# --- the store ----------------------------------------------------------------------------------


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


class Batch(Struct, frozen=True, gc=False, kw_only=True):
    """Frames of one run that follow each other, ready for every reader whose cursor is `after`."""

    after: Seq
    last: Seq
    """The cursor of a reader that has them; equal to `after` when there is nothing."""
    shown: Seq | None
    """The last frame in it; None when this detail shows none of what lies between."""
    payloads: tuple[bytes, ...]
    wire: bytes
    """All of them as WebSocket frames."""
    cut: bool
    """Whether more may be there already."""


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

        The same user, key and hash return the run made before; raises KeyConflict on another hash.
        """
        ...

    async def launched(self, user_id: UserId, key: str, body_hash: str) -> Run | None:
        """The run that this key made before, or None; raises KeyConflict on another hash."""
        ...

    async def get(self, run_id: RunId) -> RunRecord | None: ...

    async def runs(
        self, *, project_id: ProjectId | None, before: RunId | None, limit: int
    ) -> list[Run]:
        """Newest first; with `before`, older than that run."""
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
        """The next frames after a seq, in order: at most `limit` and about 256 KiB, but at least
        one if there is one. Folded frames read as if they were not."""
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

    async def projects(self) -> list[Project]: ...

    async def project(self, project_id: ProjectId) -> Project | None: ...

    async def save_plan(self, plan: FlowPlan, patches: Mapping[str, str]) -> None: ...

    async def plan(self, plan_id: PlanId) -> tuple[FlowPlan, dict[str, str]] | None: ...


# --- the hub ------------------------------------------------------------------------------------


class Hub(Protocol):
    """Heads and a ring of ready-made frames per live run. The log is the record, not the hub."""

    def publish(self, entries: Sequence[LogEntry]) -> None:
        """Take committed frames, in order per run, and wake who listens to their runs."""
        ...

    def after(self, run_id: RunId, seq: Seq, *, outline: bool) -> Batch | None:
        """The frames after `seq` that this detail shows, oldest first: at most a page, framed once
        for all readers with this cursor. None when the ring does not reach back so far."""
        ...

    def listen(self, run_id: RunId, wake: Callable[[], None]) -> None:
        """Call `wake` after each publish to the run, until `forget`. `wake` must not block."""
        ...

    def forget(self, run_id: RunId, wake: Callable[[], None]) -> None: ...


# --- agents -------------------------------------------------------------------------------------


class ModelEndpoint(Struct, frozen=True, kw_only=True):
    """Where a model answers, with its key: never stored, logged or sent to a client."""

    name: str
    base_url: str
    """OpenAI-compatible, as `http://127.0.0.1:11434/v1`."""
    api_key: str
    model: str

    def __repr__(self) -> str:
        return f"ModelEndpoint(name={self.name!r}, model={self.model!r})"


class Probe(Struct, frozen=True, kw_only=True):
    """What was learned of an endpoint that can be used."""

    public: Endpoint
    slots: int
    """How many agents it serves at once."""
    context_tokens: int | None
    """The model's window, when the endpoint tells."""
    prefill_seconds_per_token: float | None = None
    """How long it takes to read a prompt, measured; None when nothing was."""


class AgentUnavailable(Exception):
    """No trustworthy agent: nothing is started. `reason` is stable, `hint` mends it."""

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint


class AttemptLimits(Struct, frozen=True, kw_only=True):
    turns: int
    tool_calls: int
    answer_tokens: int
    context_tokens: int | None
    total_seconds: float
    """From spawn, all of it."""
    first_byte_seconds: float
    """From spawn to the first sign of the model. It has its slot by then: waiting behind our own
    agents is over, and does not count."""
    idle_seconds: float
    """Between two signs of life."""
    prefill_seconds: float = 0.0
    """How long the model should take to read the prompt, by measurement: silence up to here is
    reading, and no stall. 0 when nobody knows."""


class AgentOrder(Struct, frozen=True, kw_only=True):
    """Everything one attempt needs. The agent decides nothing else."""

    ref: AttemptRef
    session_id: str
    prompt: Prompt
    schema: dict[str, Any]
    """JSON Schema of the one structured result."""
    tree: Path
    """The pinned copy."""
    repository: Path
    """The project itself: looked at before and after, never given to the agent."""
    endpoint: ModelEndpoint
    limits: AttemptLimits


class AgentFailure(Struct, frozen=True, kw_only=True):
    """Why an attempt did not deliver. `reason` is stable, `message` is for a person."""

    reason: str
    message: str
    retryable: bool = False
    """It was infrastructure: the same attempt may succeed."""
    repairable: bool = False
    """There was an answer, but not a valid one: one repair attempt may succeed."""
    retry_after: float | None = None
    """Seconds that the endpoint asked to be left alone, when it did."""


class AgentResult(Struct, frozen=True, kw_only=True):
    """How an attempt ended: with `raw` (parsed JSON) or with a `failure`."""

    raw: Any
    text: str
    """What the agent last said, at most 64 KiB, for a repair attempt."""
    failure: AgentFailure | None
    usage: Usage
    exit_code: int | None
    receipt: Receipt | None
    denied_tools: int


class AttemptCancelled(asyncio.CancelledError):
    """An attempt was cancelled after its process had started, and this is what was seen of it.

    `result` has usage and receipt, and a failure only when read-only is not proven.
    """

    def __init__(self, result: AgentResult) -> None:
        super().__init__()
        self.result = result


AgentFrame = FlowRunStepDelta | FlowRunStepTool | FlowRunStepNotice
Emit = Callable[[Sequence[AgentFrame]], Awaitable[None]]
"""Takes frames in order; returning late is back-pressure that the agent's reader must honour."""


class AgentRunner(Protocol):
    async def check(self) -> str:
        """Return the agent's version, or raise AgentUnavailable. Cheap after the first call."""
        ...

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        """Try an endpoint as an agent would use it (cached), or raise AgentUnavailable."""
        ...

    async def start(self) -> None:
        """End what an earlier server left running, and open the way to the models."""
        ...

    async def stop(self) -> None:
        """Close that way. Nothing runs any more when it is called."""
        ...

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        """Make one attempt. Cancelling it kills the agent's whole process tree; it ends only when
        the last process is gone, with AttemptCancelled if there was one."""
        ...


# --- trees --------------------------------------------------------------------------------------


class Trees(Protocol):
    """Pinned copies of projects. No method writes to a project."""

    async def situation(self, project: Project, invocation: Invocation, probe: Probe) -> Situation:
        """Pin the project's tree as it is now and find what the invocation puts under review.

        Raises ProtocolError naming the field when the project or a path cannot be used.
        """
        ...

    async def check(self, path: Path) -> Path:
        """The resolved path of a folder that may be a project; raises ProtocolError, also for one
        outside the `project_roots`."""
        ...

    def root(self, tree_id: str) -> Path:
        """Where the pinned copy lies."""
        ...

    def view(self, tree_id: str) -> TreeView:
        """The pinned copy for pure code. It reads files: call its methods in a thread."""
        ...

    async def exists(self, tree_id: str) -> bool:
        """Whether the copy is there and is still what its id says."""
        ...

    def hold(self, tree_id: str) -> AbstractContextManager[None]:
        """While this is open, the cache does not let go of this copy."""
        ...

    def keep(self) -> AbstractContextManager[None]:
        """While this is open, the cache does not let go of any copy that is pinned, or found to
        exist, meanwhile."""
        ...
