"""The resources that REST and frames share. Times are RFC 3339 in UTC with milliseconds."""

from enum import StrEnum
from typing import Any

from msgspec import Struct

from protocol.commands import Band
from protocol.ids import ProjectId, RunId, StepId
from protocol.plan import StepKind
from protocol.states import RunStatus, StepStatus


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens, as the endpoint counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    requests: int = 0


class ReportRef(Struct, frozen=True, kw_only=True):
    """Where a run's report is and what it says at a glance."""

    revision: int
    complete: bool
    headline: str
    counts: dict[str, int]
    summary_md: str
    """At most 4 KiB of Markdown."""
    url: str


class Run(Struct, frozen=True, kw_only=True):
    """One run, exactly as the run routes answer it: every key is always there."""

    id: RunId
    project_id: ProjectId
    flow_name: str
    band: Band
    model: str | None
    status: RunStatus
    input: dict[str, Any]
    report: ReportRef | None
    error: str | None
    created_at: str
    updated_at: str


class Step(Struct, frozen=True, kw_only=True):
    """One step of a run, exactly as `GET /api/runs/{id}` answers it: every key is always there."""

    id: str
    run_id: RunId
    step_id: StepId
    kind: StepKind
    agent: str | None
    status: StepStatus
    task_id: str | None
    """Names the process of the latest attempt."""
    chat_id: str
    """Names the step's transcript."""
    input: dict[str, Any]
    output: Any
    error: str | None
    created_at: str
    updated_at: str
    session_id: str | None
    """The agent's own session of the latest attempt."""


class Project(Struct, frozen=True, kw_only=True):
    id: ProjectId
    path: str
    name: str
    created_at: str


class FlowInput(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    type: str
    summary: str
    required: bool = False
    flag: str | None = None
    choices: list[str] = []
    default: Any = None


class FlowBand(Struct, frozen=True, kw_only=True):
    name: Band
    agents: str
    """How many agents a run of this band starts, as `3` or `3–5`."""
    summary: str


class FlowInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the catalogue, for a composer."""

    name: str
    title: str
    summary: str
    aliases: list[str]
    usage: str
    """The argument hint, as `/code-review [band] [--base REF] [path…] ["focus"]`."""
    inputs: list[FlowInput]
    bands: list[FlowBand]
    primary_input: str
    """The input that REST's `question` feeds."""


class ModelInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that the asking user may name in a launch."""

    name: str
    host: str
    model: str = ""
    """As its endpoint calls it; left out while nobody has asked the endpoint."""
    default: bool = False
    """Used when a launch names none."""


class Limit(StrEnum):
    """What a queued step may wait for."""

    RUN_PARALLEL = "run_parallel"
    """Its own run has as many agents at work as its band allows."""
    ENDPOINT_SLOTS = "endpoint_slots"
    """The model's endpoint serves as many agents as it can."""
    HOST_MEMORY = "host_memory"
    """The machine has no memory for another agent."""


class Queue(Struct, frozen=True, kw_only=True):
    """Where a waiting step stands. `place` 1 is served next."""

    limit: Limit
    place: int
    host: str
    """Of the model that it waits for."""


class Containment(StrEnum):
    NONE = "none"
    BUBBLEWRAP = "bubblewrap"


class Level(StrEnum):
    """One kind of containment, enforced by the operating system."""

    FILESYSTEM = "filesystem"
    """The agent sees the copy and its own program, read-only, and nothing else of the disk."""
    NETWORK = "network"
    """The agent reaches podium's relay and nothing else."""
    PROCESSES = "processes"
    """The agent sees no process but its own, and none of its own outlives it."""


class SelfTest(StrEnum):
    """What came of trying, from inside the agent's own process, what it must not be able to do."""

    FAILED_AS_IT_MUST = "failed_as_it_must"
    SUCCEEDED = "succeeded"
    NOT_RUN = "not_run"
    """The agent was not contained at that level, or never got so far."""


class Proof(StrEnum):
    YES = "yes"
    NO = "no"


class Receipt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was seen of one attempt that bears on read-only."""

    agent: str
    agent_version: str
    mode: str
    tools: list[str]
    """The tools the agent was offered, as its own first line says."""
    denials: list[str]
    """Calls that were refused, by tool."""
    host: str
    """Of the model endpoint."""
    contained: Containment
    levels: list[Level] = []
    """What the containment enforced, in the order of `Level`; empty when there was none."""
    write_probe: SelfTest
    """Writing into the copy."""
    network_probe: SelfTest = SelfTest.NOT_RUN
    """Reaching a port of the host."""
    process_probe: SelfTest = SelfTest.NOT_RUN
    """Seeing a process of the host."""
    tree_before: str
    tree_after: str
    """Hashes of the pinned copy before and after the attempt."""
    repository_before: str | None
    repository_after: str | None
    """Hashes of the repository's status and refs; None without git."""
    ended_at: str = ""
    """When the last process of the attempt was gone."""
    proven: Proof
    """`yes`: contained at every level, every probe failed as it must, the copy is the same."""


class Totals(Struct, frozen=True, kw_only=True):
    """Of a whole run, at its end."""

    steps: int
    completed: int
    failed: int
    skipped: int
    cancelled: int
    attempts: int
    usage: Usage
    seconds: float
    """From the run's creation to its end."""
    findings: int
    citations_verified: int
    citations_total: int


class IndexRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of a live run list."""

    run: Run
    steps_done: int
    steps_total: int
