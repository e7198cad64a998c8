"""The frozen plan of a run: everything that was decided before the first agent started.

Resume reads the plan and never decides again, so a plan holds no reference to anything that may
change: it names the tree by its id and briefs and schemas by their hashes.
"""

from enum import StrEnum
from typing import Any

from msgspec import Struct

from protocol.commands import Band
from protocol.ids import PlanId, ProjectId, StepId


class StepKind(StrEnum):
    CODE = "code"
    AGENT = "agent"


class OnFailure(StrEnum):
    FAIL = "fail"
    """The run fails."""
    DEGRADE = "degrade"
    """The run goes on, its report is partial and names the step."""
    SKIP = "skip"
    """The run goes on as if the step had had nothing to say; Coverage names it."""


class Caps(Struct, frozen=True, kw_only=True):
    """The limits of a band. They count specialists, never total seats."""

    specialists: int
    parallel: int
    rounds: int
    files: int
    """Files under review; the rest is counted in Coverage."""
    batches: int
    """The widest fan-out of a step over the files."""
    findings_per_step: int
    turns: int
    tool_calls: int
    seconds: int
    """One attempt's whole time."""
    tokens: int
    """One attempt's answer, per model call."""


class ChosenBand(Struct, frozen=True, kw_only=True):
    name: Band
    reason: str
    source: str
    """`explicit`, `signals` or `default`."""


class LineRange(Struct, frozen=True, array_like=True):
    """Lines from `start` to `end`, counted from 1, both included."""

    start: int
    end: int


class ScopeFile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    path: str
    lines: int
    status: str = "present"
    """`present`, or with a diff: `added`, `modified`, `renamed`."""
    added: list[LineRange] = []
    """Lines the change added; empty without a diff."""


class Scope(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is under review, and how that was found."""

    kind: str
    """`paths`, `uncommitted`, `branch`, `head`, `tree` or `none` (a flow without files)."""
    description: str
    files: list[ScopeFile]
    total_files: int
    """Files in scope before the cap."""
    left_out: list[str] = []
    """The first of those that the cap leaves out."""
    base: str | None = None
    """The commit the change is measured from."""
    deleted: list[str] = []


class Tree(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The pinned copy that every agent of the run reads."""

    id: str
    files: int
    left_out: dict[str, int] = {}
    """Files that were not copied, counted by reason."""
    left_out_paths: list[str] = []
    """The first of them, as `path: reason`."""
    bytes: int = 0
    """Of all files that agents can read."""
    paths: list[str] = []
    """Every one of these files, when there are few; else `folders` counts them."""
    folders: dict[str, int] = {}
    """Files below each folder at the top, `.` for those beside them, and `…` for those below
    folders that are not named."""
    head: str | None = None
    branch: str | None = None
    dirty: bool = False
    notes: list[str] = []


class Seat(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One role of the roster: chosen or left out, and why."""

    role: str
    title: str
    reason: str
    spine: bool = False


class SignalHits(Struct, frozen=True, kw_only=True):
    id: str
    hits: int
    examples: list[str]


class Endpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the model answers. Never holds a key."""

    name: str
    host: str
    model: str
    """As the endpoint calls it."""
    known_as: str = ""
    """The model's name in the settings; empty when it is the endpoint's own name."""
    demo: bool = False
    """The scripted demo model: not a review."""


class PlannedStep(Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: StepId
    kind: StepKind
    phase: str
    title: str
    needs: list[StepId] = []
    when: str | None = None
    """An expression over facts; the step is skipped when it is false. None means `success()`."""
    otherwise: str | None = None
    """Why it is not called for then, in words."""
    role: str | None = None
    function: str | None = None
    """For a code step: the name of the pure function that computes it."""
    brief: str | None = None
    """For an agent step: `name@version`."""
    output: str | None = None
    """For an agent step: the name of its output schema."""
    prefix: str | None = None
    """Of the ids of its findings."""
    index: int | None = None
    """Its place in a fan-out, counted from 1."""
    files: list[str] = []
    """Its slice of the scope."""
    dimensions: list[str] = []
    """What the role must cover: findings or a cleared line for each."""
    required: bool = False
    on_failure: OnFailure = OnFailure.DEGRADE
    retries: int = 2
    quorum: int | None = None
    """How many of `needs` must have completed; None means none has to when `when` is `always()`."""
    endpoint: Endpoint | None = None
    """Of its role, where the settings give the role a model of its own; None is the plan's."""


class FlowPlan(Struct, frozen=True, kw_only=True, omit_defaults=True):
    plan_id: PlanId
    """A hash of all the rest: the same launch on the same tree has the same plan id."""
    project_id: ProjectId
    flow: str
    flow_version: int
    title: str
    command: str
    """The equivalent slash command."""
    band: ChosenBand
    caps: Caps
    inputs: dict[str, Any]
    tree: Tree
    scope: Scope
    signals: list[SignalHits]
    roster: list[Seat]
    omitted: list[Seat]
    steps: list[PlannedStep]
    hashes: dict[str, str]
    """Of every brief and output schema the plan uses, by name."""
    endpoint: Endpoint
    """Of every step that has none of its own."""
    warnings: list[str] = []

    def endpoint_of(self, step: PlannedStep) -> Endpoint:
        """Where the model of a step answers."""
        return step.endpoint or self.endpoint

    @property
    def role_endpoints(self) -> dict[str, Endpoint]:
        """The endpoint of each role that has one of its own, in plan order."""
        return {step.role: step.endpoint for step in self.steps if step.role and step.endpoint}

    @property
    def demo(self) -> bool:
        """Whether any step is the scripted demo model's."""
        return self.endpoint.demo or any(it.demo for it in self.role_endpoints.values())
