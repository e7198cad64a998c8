"""The bodies and queries of the routes, and how a bad one is explained.

A bad body is answered with all of its faults at once, in the shape that zod's `flatten()` made
known: `formErrors` for the body as a whole and `fieldErrors` by top-level field. Lengths count
Unicode code points. Which route takes and answers which body is said in `routes.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from protocol.checks import (
    FLOW_NAME_MAX,
    MODEL_MAX,
    QUESTION_MAX,
    Fields,
    band_of,
    command_of,
    cursor_of,
    detail_of,
    flow_name_of,
    input_of,
    kind_of,
    model_of,
    uuid_of,
)
from protocol.codec import NESTING, parse_json, place_of, sentence_of, too_deep
from protocol.commands import Band, CommandText, Cursor, Detail, LaunchKey, ShortText
from protocol.errors import BadMessage, ErrorCode
from protocol.ids import Gen, PlanId, ProjectId, RunId, Seq, StepId
from protocol.plan import FlowPlan
from protocol.resources import FlowInfo, ModelInfo, Project, Run, Step

B = TypeVar("B", bound=Struct)

LIST_LIMIT = 100
"""Runs in one answer of the run list, and rows of a live one."""

RECORDING = "podium.recording"
RECORDING_VERSION = 1

What = Literal["invalid body", "invalid query"]
INVALID_BODY: What = "invalid body"
INVALID_QUERY: What = "invalid query"

_QUESTION = {"type": "string", "minLength": 1, "maxLength": QUESTION_MAX}


# --- what is asked --------------------------------------------------------------------------------


class LaunchBody(Struct, frozen=True, kw_only=True):
    """`POST /api/runs`, checked. `input` holds `question` and everything else as it came."""

    project_id: Annotated[ProjectId, Meta(extra_json_schema={"format": "uuid"})]
    """In either case."""
    flow_name: Annotated[str, Meta(min_length=1, max_length=FLOW_NAME_MAX)]
    band: Band
    input: Annotated[
        dict[str, Any],
        Meta(extra_json_schema={"required": ["question"], "properties": {"question": _QUESTION}}),
    ]
    """`question` feeds the flow's primary input; other keys feed the inputs of their names."""
    model: Annotated[str, Meta(max_length=MODEL_MAX)] | UnsetType = UNSET
    """One of the models of `GET /api/flows`; left out or empty: the default."""


class CommandBody(Struct, frozen=True, kw_only=True):
    """`POST /api/runs` by a slash command, as the socket's `launch` takes it."""

    project_id: Annotated[ProjectId, Meta(extra_json_schema={"format": "uuid"})]
    """In either case."""
    command: CommandText
    model: Annotated[str, Meta(max_length=MODEL_MAX)] | UnsetType = UNSET
    """One of the models of `GET /api/flows`; left out or empty: the default."""


class PlanBody(Struct, frozen=True, kw_only=True):
    """`POST /api/plans`: a project with a slash command, or with a flow and its input."""

    project_id: ProjectId | None = None
    command: CommandText | None = None
    flow_name: ShortText | None = None
    band: Band | None = None
    input: dict[str, Any] | None = None
    model: ShortText | None = None
    plan_id: PlanId | None = None
    """Of a plan that is stored already: is it still good?"""


class RerunBody(Struct, frozen=True, kw_only=True):
    """`POST /api/runs/{id}/rerun`. Completed steps are reused, except `steps` and what depends on
    them."""

    key: LaunchKey | None = None
    """The same as the `Idempotency-Key` header, which wins."""
    steps: list[StepId] = []


class ProjectBody(Struct, frozen=True):
    """`POST /api/projects`: a folder on the server's machine."""

    path: str
    """Absolute."""


class ListQuery(Struct, frozen=True, kw_only=True):
    """`GET /api/runs`, checked: runs of one project, or older than one run."""

    project_id: ProjectId | None = None
    before: RunId | None = None


class LogQuery(Struct, frozen=True, kw_only=True):
    """A query of `/events` and `/frames`, checked: where to start, and how much to show."""

    after: Cursor | None = None
    detail: Detail = Detail.FULL


# --- what is answered -----------------------------------------------------------------------------


class Launched(Struct, frozen=True):
    """201, and 200 for an idempotent repeat."""

    run_id: RunId


class RunList(Struct, frozen=True):
    runs: list[Run]


class RunDetail(Struct, frozen=True):
    run: Run
    steps: list[Step]
    """In the order of their creation."""


class Cancelled(Struct, frozen=True):
    cancelled: Literal[True] = True


class Finishing(Struct, frozen=True):
    finishing: Literal[True] = True


class Planned(Struct, frozen=True):
    plan: FlowPlan


class FlowList(Struct, frozen=True):
    """The catalogue, and the models that the asking user may name in a launch."""

    flows: list[FlowInfo]
    models: list[ModelInfo]


class ProjectList(Struct, frozen=True):
    projects: list[Project]


class Alive(Struct, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"
    build: str


class AgentState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether runs can start; a server without an agent still shows those that it has."""

    available: bool
    version: str | None = None
    reason: str | None = None
    hint: str | None = None


class Ready(Struct, frozen=True, kw_only=True):
    status: Literal["ready"] = "ready"
    agent: AgentState


class Draining(Struct, frozen=True):
    status: Literal["draining"] = "draining"


class FramesPage(Struct, frozen=True, kw_only=True, rename={"after": "from"}):
    """`GET /api/runs/{id}/frames`: the stored frames after `from`, which a client truncates to."""

    run_id: RunId
    gen: Gen
    head: Seq
    after: Seq
    expired: bool
    """Frames after the cursor are gone: `from` is the head, and the run itself has the rest."""
    frames: list[Raw]


class RecordingHeader(Struct, frozen=True, kw_only=True):
    """The first line of a recording; `frames` lines follow, each a stored frame."""

    format: str = RECORDING
    version: int = RECORDING_VERSION
    run_id: RunId
    gen: Gen
    frames: int
    ended: bool
    """Whether the run had ended: then these are all the frames that there will ever be."""


# --- how it is refused ----------------------------------------------------------------------------


class Details(Struct, frozen=True, rename="camel"):
    """Faults of the whole, and faults by top-level field."""

    form_errors: list[str]
    field_errors: dict[str, list[str]]


class InvalidBody(Struct, frozen=True):
    """Every fault of a body or of a query, at once."""

    error: What
    details: Details


class InvalidId(Struct, frozen=True):
    """The id in the path is no UUID."""

    error: Literal["invalid id"] = "invalid id"


class NoSuchRun(Struct, frozen=True):
    """A run that is not yours looks exactly like one that does not exist."""

    error: Literal["run not found"] = "run not found"


class NotCancelled(Struct, frozen=True):
    """A sentence: `cannot cancel run in status '…'`, or `run is no longer running`."""

    error: str


class UnknownFlow(Struct, frozen=True, kw_only=True):
    error: Literal["unknown_flow"] = "unknown_flow"
    message: str
    known_flows: list[str]


class ErrorBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every other refusal, with a code of the wire."""

    error: ErrorCode
    message: str
    """A sentence for a person."""
    field: str | None = None
    """The part of the request that is wrong."""
    hint: str | None = None
    """The way out."""


class InvalidRequest(Exception):
    """A body or query with every fault it has. `what` is `invalid body` or `invalid query`."""

    def __init__(
        self, what: What, form_errors: list[str], field_errors: dict[str, list[str]]
    ) -> None:
        super().__init__(what)
        self.what = what
        self.form_errors = form_errors
        self.field_errors = field_errors

    @classmethod
    def from_decoding(cls, what: What, error: msgspec.DecodeError) -> "InvalidRequest":
        """What msgspec found: one fault, under its top-level field when it has one."""
        place = place_of(error) if isinstance(error, msgspec.ValidationError) else None
        if place is None or not isinstance(error, msgspec.ValidationError):
            return cls(what, [str(error)], {})
        return cls(what, [], {place.split(".")[0].split("[")[0]: [sentence_of(error)]})

    @property
    def body(self) -> InvalidBody:
        return InvalidBody(self.what, Details(self.form_errors, self.field_errors))


def parse_launch(data: bytes) -> LaunchBody | CommandBody:
    """Return the checked body, or raise InvalidRequest with every fault in it.

    It is one by command when it has a `command`; a `flow_name` beside that is a fault. Top-level
    fields that the contract does not name are ignored.
    """
    try:
        body = parse_json(data)
    except BadMessage as error:
        raise InvalidRequest(INVALID_BODY, [error.message], {}) from None
    if not isinstance(body, dict):
        raise InvalidRequest(INVALID_BODY, [f"Expected object, received {kind_of(body)}"], {})
    fields = Fields(body)
    return _by_command(fields, body) if "command" in body else _by_fields(fields, body)


def _by_command(fields: Fields, body: Mapping[str, Any]) -> CommandBody:
    project_id = fields.take("project_id", uuid_of)
    command = fields.take("command", command_of)
    model = fields.take("model", model_of) if "model" in body else None
    if "flow_name" in body:
        fields.errors["flow_name"] = ["Give either a command, or a flow_name with its input"]
    if fields.errors or project_id is None or command is None:
        raise InvalidRequest(INVALID_BODY, [], fields.errors)
    return CommandBody(project_id=ProjectId(project_id), command=command, model=model or UNSET)


def _by_fields(fields: Fields, body: Mapping[str, Any]) -> LaunchBody:
    project_id = fields.take("project_id", uuid_of)
    flow_name = fields.take("flow_name", flow_name_of)
    band = fields.take("band", band_of)
    input = fields.take("input", input_of)
    model = fields.take("model", model_of) if "model" in body else None
    if fields.errors or project_id is None or flow_name is None or band is None or input is None:
        raise InvalidRequest(INVALID_BODY, [], fields.errors)
    return LaunchBody(
        project_id=ProjectId(project_id),
        flow_name=flow_name,
        band=band,
        input=input,
        model=model or UNSET,
    )


def parse_body(data: bytes, kind: type[B]) -> B:
    """Return the body, or raise InvalidRequest with the first fault in it.

    Fields that `kind` does not have are ignored. An `input` is at most NESTING levels deep.
    """
    try:
        body = msgspec.convert(parse_json(data), kind)
    except BadMessage as error:
        raise InvalidRequest(INVALID_BODY, [error.message], {}) from None
    except msgspec.ValidationError as error:
        raise InvalidRequest.from_decoding(INVALID_BODY, error) from None
    if too_deep(getattr(body, "input", None)):
        fault = f"Nested deeper than {NESTING} levels"
        raise InvalidRequest(INVALID_BODY, [], {"input": [fault]})
    return body


def parse_list_query(params: Mapping[str, str]) -> ListQuery:
    """Return the checked query, or raise InvalidRequest. Other parameters are ignored."""
    fields = Fields(params)
    project_id = fields.take("project_id", uuid_of) if "project_id" in params else None
    before = fields.take("before", uuid_of) if "before" in params else None
    if fields.errors:
        raise InvalidRequest(INVALID_QUERY, [], fields.errors)
    return ListQuery(
        project_id=None if project_id is None else ProjectId(project_id),
        before=None if before is None else RunId(before),
    )


def parse_log_query(params: Mapping[str, str], last_event_id: str | None) -> LogQuery:
    """Return the checked query, or raise InvalidRequest.

    The header of a reader that comes back is younger than the address that it began with.
    """
    given: dict[str, Any] = dict(params)
    name = "Last-Event-ID" if last_event_id else "after"
    if last_event_id:
        given[name] = last_event_id
    fields = Fields(given)
    after = fields.take(name, cursor_of) if name in given else None
    detail = fields.take("detail", detail_of) if "detail" in given else Detail.FULL
    if fields.errors or detail is None:
        raise InvalidRequest(INVALID_QUERY, [], fields.errors)
    return LogQuery(after=after, detail=detail)
