"""Server → client: stored frames (with a `seq`) and control frames (without).

A stored frame is made with `seq` 0 and no `at`; the store stamps both when it commits it.
"""

from enum import StrEnum
from typing import Any

from msgspec import Struct

from protocol.errors import ErrorCode
from protocol.ids import Gen, ProjectId, RunId, Seq, StepId
from protocol.plan import FlowPlan
from protocol.report import Coverage, Finding
from protocol.resources import (
    FlowInfo,
    IndexRow,
    ModelInfo,
    Queue,
    Receipt,
    Run,
    Totals,
    Usage,
)
from protocol.states import RunStatus, StepStatus


class Channel(StrEnum):
    TEXT = "text"
    THINKING = "thinking"
    STDERR = "stderr"


class ToolStatus(StrEnum):
    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"
    DENIED = "denied"


class Frame(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every stored frame has."""

    run_id: RunId
    seq: Seq = Seq(0)
    at: str = ""


class StepFrame(Frame, frozen=True, kw_only=True):
    """A stored frame that belongs to one attempt of a step. Attempts count from 1."""

    step_id: StepId
    attempt: int


class FlowRunCreated(Frame, frozen=True, kw_only=True, tag="flow_run_created"):
    run: Run
    command: str
    parent_run_id: RunId | None = None


class FlowRunPlanned(Frame, frozen=True, kw_only=True, tag="flow_run_planned"):
    plan: FlowPlan


class FlowRunStatus(Frame, frozen=True, kw_only=True, tag="flow_run_status"):
    status: RunStatus
    reason: str | None = None


class FlowRunStepStatus(StepFrame, frozen=True, kw_only=True, tag="flow_run_step_status"):
    """`attempt` is 0 while no attempt was made."""

    status: StepStatus
    agent: str | None = None
    reason: str | None = None
    message: str | None = None
    """One sentence for a person: what happened and what to do."""
    exit_code: int | None = None
    usage: Usage | None = None
    session_id: str | None = None
    reused: bool = False
    queue: Queue | None = None
    """Of a queued step that has to wait: for what, and in which place."""


class FlowRunStepDelta(StepFrame, frozen=True, kw_only=True, tag="flow_run_step_delta"):
    """`offset` counts Unicode code points, per attempt and channel."""

    channel: Channel
    offset: int
    text: str


class FlowRunStepTool(StepFrame, frozen=True, kw_only=True, tag="flow_run_step_tool"):
    """One tool call; a later frame with the same `call_id` replaces it."""

    call_id: str
    name: str
    status: ToolStatus
    summary: str
    args: str | None = None
    """JSON, at most 2 KiB of it."""
    result: str | None = None
    """At most 4 KiB of it."""


class FlowRunStepReceipt(StepFrame, frozen=True, kw_only=True, tag="flow_run_step_receipt"):
    receipt: Receipt


class FlowRunStepNotice(StepFrame, frozen=True, kw_only=True, tag="flow_run_step_notice"):
    """`code` is stable; `message` is a sentence for a person."""

    code: str
    message: str
    data: dict[str, Any] = {}


class FlowRunFinding(StepFrame, frozen=True, kw_only=True, tag="flow_run_finding"):
    """One finding; a later one with the same id replaces it."""

    finding: Finding


class FlowRunReport(Frame, frozen=True, kw_only=True, tag="flow_run_report"):
    """The report is stored."""

    revision: int
    complete: bool
    coverage: Coverage
    headline: str
    counts: dict[str, int]
    summary_md: str
    url: str
    read_only: str | None = None
    """Whether the receipts prove read-only, in one sentence."""
    stale: bool = False
    """The repository changed while the run went on."""


class FlowRunFinished(Frame, frozen=True, kw_only=True, tag="flow_run_finished"):
    """The last frame of a run: there is exactly one."""

    status: RunStatus
    totals: Totals
    reason: str | None = None


StoredFrame = (
    FlowRunCreated
    | FlowRunPlanned
    | FlowRunStatus
    | FlowRunStepStatus
    | FlowRunStepDelta
    | FlowRunStepTool
    | FlowRunStepReceipt
    | FlowRunStepNotice
    | FlowRunFinding
    | FlowRunReport
    | FlowRunFinished
)

FULL_ONLY = (FlowRunStepDelta, FlowRunStepTool)
"""The frames that an outline leaves out."""


class Limits(Struct, frozen=True, kw_only=True):
    """What a client should know before it hits it."""

    message_bytes: int
    subscriptions: int
    sockets: int
    burst: int
    per_second: int
    heartbeat_seconds: float
    fragments: int = 64
    waiting: int = 16


class Control(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A frame of the connection, not of a log: it has no `seq`."""


class FlowRunHello(Control, frozen=True, kw_only=True, tag="flow_run_hello"):
    """The first frame after authentication."""

    user_id: str
    build: str
    server_time: str
    limits: Limits


class FlowRunAck(Control, frozen=True, kw_only=True, tag="flow_run_ack"):
    """The answer to message `id`; which fields it has depends on the message."""

    id: str
    run_id: RunId | None = None
    created: bool | None = None
    outcome: str | None = None
    plan: FlowPlan | None = None
    flows: list[FlowInfo] | None = None
    models: list[ModelInfo] | None = None


class FlowRunError(Control, frozen=True, kw_only=True, tag="flow_run_error"):
    """The refusal of message `id` (empty when the message had no usable id)."""

    id: str
    code: ErrorCode
    message: str
    field: str | None = None
    hint: str | None = None
    retry_after_ms: int | None = None


class FlowRunSubscribed(
    Control,
    frozen=True,
    kw_only=True,
    tag="flow_run_subscribed",
    rename={"after": "from"},
):
    """`from` is the seq after which frames follow; a client truncates what it has to it."""

    run_id: RunId
    gen: Gen
    head: Seq
    after: Seq


class FlowRunCaughtUp(Control, frozen=True, kw_only=True, tag="flow_run_caught_up"):
    run_id: RunId
    seq: Seq


class FlowRunReset(Control, frozen=True, kw_only=True, tag="flow_run_reset"):
    """The frames after the cursor have expired: `snapshot` is the run as it is now."""

    run_id: RunId
    reason: str
    snapshot: Run
    gen: Gen
    head: Seq


class FlowRunLagging(Control, frozen=True, kw_only=True, tag="flow_run_lagging"):
    """The reader is `behind` frames and is being served from the log."""

    run_id: RunId
    behind: int


class FlowRunHeartbeat(Control, frozen=True, kw_only=True, tag="flow_run_heartbeat"):
    heads: dict[RunId, Seq]
    at: str


class FlowRunIndex(Control, frozen=True, kw_only=True, tag="flow_run_index"):
    row: IndexRow
    project_id: ProjectId


class FlowRunDraining(Control, frozen=True, kw_only=True, tag="flow_run_draining"):
    retry_after_ms: int


ControlFrame = (
    FlowRunHello
    | FlowRunAck
    | FlowRunError
    | FlowRunSubscribed
    | FlowRunCaughtUp
    | FlowRunReset
    | FlowRunLagging
    | FlowRunHeartbeat
    | FlowRunIndex
    | FlowRunDraining
)

ServerFrame = StoredFrame | ControlFrame
