"""The bodies and queries of the run routes, and how a bad one is explained.

A bad body is answered with all of its faults at once, in the shape that zod's `flatten()` made
known: `formErrors` for the body as a whole and `fieldErrors` by top-level field. Lengths count
Unicode code points.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from protocol.codec import NESTING, parse_json, place_of, sentence_of, too_deep
from protocol.commands import Band, Cursor, Detail
from protocol.errors import BadMessage
from protocol.ids import Gen, ProjectId, RunId, Seq, is_uuid
from protocol.resources import Run, Step

T = TypeVar("T")

FLOW_NAME_MAX = 100
LIST_LIMIT = 100
"""Runs in one answer of the run list, and rows of a live one."""
QUESTION_MAX = 64_000
MODEL_MAX = 200

_CURSOR = re.compile(r"([1-9][0-9]{0,14}):(0|[1-9][0-9]{0,14})")

RECORDING = "podium.recording"
RECORDING_VERSION = 1

INVALID_BODY = "invalid body"
INVALID_QUERY = "invalid query"


class LaunchBody(Struct, frozen=True, kw_only=True):
    """`POST /api/runs`, checked. `input` holds `question` and everything else as it came."""

    project_id: ProjectId
    flow_name: str
    band: Band
    input: dict[str, Any]
    model: str | None = None


class ListQuery(Struct, frozen=True, kw_only=True):
    """`GET /api/runs`, checked: runs of one project, or older than one run."""

    project_id: ProjectId | None = None
    before: RunId | None = None


class LogQuery(Struct, frozen=True, kw_only=True):
    """A query of `/events` and `/frames`, checked: where to start, and how much to show."""

    after: Cursor | None = None
    detail: Detail = Detail.FULL


class Launched(Struct, frozen=True):
    """201, and 200 for an idempotent repeat."""

    run_id: RunId


class RunList(Struct, frozen=True):
    runs: list[Run]


class RunDetail(Struct, frozen=True):
    run: Run
    steps: list[Step]


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


class Details(Struct, frozen=True, rename="camel"):
    form_errors: list[str]
    field_errors: dict[str, list[str]]


class InvalidBody(Struct, frozen=True):
    """400: `error` is `invalid body` or `invalid query`."""

    error: str
    details: Details


class ErrorBody(Struct, frozen=True, omit_defaults=True):
    """Every other refusal. `error` is a code of the wire, except where a run route has its own
    sentence, which then stands alone."""

    error: str
    message: str | None = None
    field: str | None = None
    hint: str | None = None
    known_flows: list[str] | None = None


class InvalidRequest(Exception):
    """A body or query with every fault it has. `what` is `invalid body` or `invalid query`."""

    def __init__(
        self, what: str, form_errors: list[str], field_errors: dict[str, list[str]]
    ) -> None:
        super().__init__(what)
        self.what = what
        self.form_errors = form_errors
        self.field_errors = field_errors

    @classmethod
    def from_decoding(cls, what: str, error: msgspec.DecodeError) -> "InvalidRequest":
        """What msgspec found: one fault, under its top-level field when it has one."""
        place = place_of(error) if isinstance(error, msgspec.ValidationError) else None
        if place is None or not isinstance(error, msgspec.ValidationError):
            return cls(what, [str(error)], {})
        return cls(what, [], {place.split(".")[0].split("[")[0]: [sentence_of(error)]})

    @property
    def body(self) -> InvalidBody:
        return InvalidBody(self.what, Details(self.form_errors, self.field_errors))


class Fault(Exception):
    """What is wrong with one field."""


def parse_launch(data: bytes) -> LaunchBody:
    """Return the checked body, or raise InvalidRequest with every fault in it.

    Top-level fields that the contract does not name are ignored.
    """
    try:
        body = parse_json(data)
    except BadMessage as error:
        raise InvalidRequest(INVALID_BODY, [error.message], {}) from None
    if not isinstance(body, dict):
        raise InvalidRequest(INVALID_BODY, [f"Expected object, received {_kind(body)}"], {})
    fields = _Fields(body)
    project_id = fields.take("project_id", _uuid)
    flow_name = fields.take("flow_name", _flow_name)
    band = fields.take("band", _band)
    input = fields.take("input", _input)
    model = fields.take("model", _model) if "model" in body else None
    if fields.errors or project_id is None or flow_name is None or band is None or input is None:
        raise InvalidRequest(INVALID_BODY, [], fields.errors)
    return LaunchBody(
        project_id=ProjectId(project_id), flow_name=flow_name, band=band, input=input, model=model
    )


def parse_list_query(params: Mapping[str, str]) -> ListQuery:
    """Return the checked query, or raise InvalidRequest. Other parameters are ignored."""
    fields = _Fields(params)
    project_id = fields.take("project_id", _uuid) if "project_id" in params else None
    before = fields.take("before", _uuid) if "before" in params else None
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
    fields = _Fields(given)
    after = fields.take(name, _cursor) if name in given else None
    detail = fields.take("detail", _detail) if "detail" in given else Detail.FULL
    if fields.errors or detail is None:
        raise InvalidRequest(INVALID_QUERY, [], fields.errors)
    return LogQuery(after=after, detail=detail)


class _Fields:
    """Takes fields one by one and keeps what is wrong with each."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.errors: dict[str, list[str]] = {}

    def take(self, name: str, check: Callable[[Any], T]) -> T | None:
        """The checked value, or None with the fault noted."""
        try:
            if name not in self._values:
                raise Fault("Required")
            return check(self._values[name])
        except Fault as fault:
            self.errors[name] = [str(fault)]
            return None


def _uuid(value: Any) -> str:
    text = _string(value).lower()
    if not is_uuid(text):
        raise Fault("Invalid uuid")
    return text


def _flow_name(value: Any) -> str:
    return _string(value, least=1, most=FLOW_NAME_MAX)


def _model(value: Any) -> str | None:
    """An empty name is no name: the endpoint's own model."""
    return _string(value, most=MODEL_MAX) or None


def _band(value: Any) -> Band:
    expected = " | ".join(f"'{band.value}'" for band in Band)
    if not isinstance(value, str):
        raise Fault(f"Expected {expected}, received {_kind(value)}")
    if value not in set(Band):
        raise Fault(f"Invalid enum value. Expected {expected}, received '{value[:100]}'")
    return Band(value)


def _cursor(value: Any) -> Cursor:
    """`gen:seq`, as the `id` of an event has it."""
    found = _CURSOR.fullmatch(value)
    if found is None:
        raise Fault(f"Expected gen:seq as in '1:42', received '{value[:100]}'")
    return Cursor(gen=int(found[1]), seq=int(found[2]))


def _detail(value: Any) -> Detail:
    if value not in set(Detail):
        expected = " | ".join(f"'{detail.value}'" for detail in Detail)
        raise Fault(f"Invalid enum value. Expected {expected}, received '{value[:100]}'")
    return Detail(value)


def _input(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Fault(f"Expected object, received {_kind(value)}")
    if "question" not in value:
        raise Fault("question: Required")
    try:
        _string(value["question"], least=1, most=QUESTION_MAX)
    except Fault as fault:
        raise Fault(f"question: {fault}") from None
    if too_deep(value):
        raise Fault(f"Nested deeper than {NESTING} levels")
    return value


def _string(value: Any, *, least: int = 0, most: int | None = None) -> str:
    if not isinstance(value, str):
        raise Fault(f"Expected string, received {_kind(value)}")
    if len(value) < least:
        raise Fault(f"String must contain at least {least} character(s)")
    if most is not None and len(value) > most:
        raise Fault(f"String must contain at most {most} character(s)")
    return value


def _kind(value: object) -> str:
    """The JSON name of a value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
