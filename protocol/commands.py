"""Client → server: every message is a frozen tagged Struct with the client's own `id`.

Each message is answered exactly once, by `flow_run_ack {id, …}` or `flow_run_error {id, …}`; the
answer precedes what the message causes.
"""

from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct

from protocol.ids import PlanId, ProjectId, RunId, StepId

MessageId = Annotated[str, Meta(min_length=1, max_length=64)]
LaunchKey = Annotated[str, Meta(min_length=1, max_length=200)]
ShortText = Annotated[str, Meta(min_length=1, max_length=200)]
COMMAND_MAX = 64_000
CommandText = Annotated[str, Meta(max_length=COMMAND_MAX)]


class Band(StrEnum):
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Detail(StrEnum):
    FULL = "full"
    OUTLINE = "outline"
    """Without delta and tool frames."""


class Cursor(Struct, frozen=True, kw_only=True):
    """A reader's place in a run's log: the last frame it has."""

    gen: Annotated[int, Meta(ge=1)]
    seq: Annotated[int, Meta(ge=0)]


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every message has."""

    id: MessageId


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """Optional; first if present. Carries the ticket of a client that has no header or cookie."""

    ticket: str | None = None
    client: str | None = None
    caps: list[str] = []


class Plan(Message, frozen=True, kw_only=True, tag="plan"):
    """Ask for the plan of a launch without running it; the ack carries the plan."""

    project_id: ProjectId | None = None
    command: CommandText | None = None
    flow_name: ShortText | None = None
    band: Band | None = None
    input: dict[str, Any] | None = None
    model: ShortText | None = None


class Launch(Message, frozen=True, kw_only=True, tag="launch"):
    """Start a run from a slash command, from a flow with its inputs, or from a stored plan.

    The ack `{run_id, created}` comes only after the run is durable. The same key with the same
    body is the same run; with another body it is refused as `key_conflict`.
    """

    key: LaunchKey
    project_id: ProjectId | None = None
    command: CommandText | None = None
    flow_name: ShortText | None = None
    band: Band | None = None
    input: dict[str, Any] | None = None
    model: ShortText | None = None
    plan_id: PlanId | None = None
    subscribe: bool = False


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop a run, or one of its steps. Ack: `{outcome: "cancelling" | "already_terminal"}`."""

    run_id: RunId
    step_id: StepId | None = None


class Finish(Message, frozen=True, kw_only=True, tag="finish"):
    """Stop early with a report: what is queued is skipped, what runs may end."""

    run_id: RunId


class Rerun(Message, frozen=True, kw_only=True, tag="rerun"):
    """Make a linked run with the same plan. Completed steps are reused, except `steps` and what
    depends on them. Ack: `{run_id, created}`."""

    run_id: RunId
    key: LaunchKey
    steps: list[StepId] = []


class Subscribe(Message, frozen=True, kw_only=True, tag="subscribe"):
    """Follow a run after a cursor, over the last `tail` frames, or from its start."""

    run_id: RunId
    after: Cursor | None = None
    tail: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    detail: Detail = Detail.FULL


class SubscribeIndex(Message, frozen=True, kw_only=True, tag="subscribe_index"):
    """Follow the rows of a run list."""

    project_id: ProjectId | None = None


class Unsubscribe(Message, frozen=True, kw_only=True, tag="unsubscribe"):
    """Stop following a run, or (without `run_id`) the run list."""

    run_id: RunId | None = None


class Flows(Message, frozen=True, kw_only=True, tag="flows"):
    """Ask for the catalogue; the ack carries it."""

    project_id: ProjectId | None = None


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    """Answered by an ack."""


Command = (
    Hello
    | Launch
    | Cancel
    | Finish
    | Rerun
    | Subscribe
    | SubscribeIndex
    | Unsubscribe
    | Flows
    | Plan
    | Ping
)
