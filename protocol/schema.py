"""The wire as one JSON Schema document: what `podium schema` prints and clients generate from."""

from typing import Any

import msgspec

from protocol.commands import Command
from protocol.errors import CLOSE_RULES, ErrorCode
from protocol.frames import ControlFrame, StoredFrame
from protocol.report import Report
from protocol.resources import FlowInfo, IndexRow, Project, Run, Step
from protocol.rest import (
    ErrorBody,
    InvalidBody,
    LaunchBody,
    Launched,
    ListQuery,
    RunDetail,
    RunList,
)
from protocol.states import RUN_MOVES, STEP_MOVES

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SUBPROTOCOL = "podium.v1"

_RESOURCES = (
    Run,
    Step,
    Project,
    IndexRow,
    FlowInfo,
    Report,
    LaunchBody,
    ListQuery,
    Launched,
    RunList,
    RunDetail,
    InvalidBody,
    ErrorBody,
)


def wire_schema() -> dict[str, Any]:
    """Every message, frame and resource by name, with the tables of errors, closes and states.

    The document itself accepts one message or one frame. `$defs` holds the unions `message`,
    `stored_frame`, `control_frame` and `frame`, and every Struct under its own name. The order is
    the same on every call.
    """
    unions: dict[str, Any] = {
        "message": Command,
        "stored_frame": StoredFrame,
        "control_frame": ControlFrame,
    }
    schemas, definitions = msgspec.json.schema_components(
        [*unions.values(), *_RESOURCES], ref_template="#/$defs/{name}"
    )
    named = dict(zip(unions, schemas, strict=False))
    frame = {"anyOf": [_ref("stored_frame"), _ref("control_frame")]}
    return {
        "$schema": DIALECT,
        "title": SUBPROTOCOL,
        "anyOf": [_ref("message"), _ref("frame")],
        "$defs": {**named, "frame": frame, **dict(sorted(definitions.items()))},
        "x-error-codes": [code.value for code in ErrorCode],
        "x-close-codes": {
            str(code.value): {"reason": rule.reason, "reconnect": rule.reconnect}
            for code, rule in CLOSE_RULES.items()
        },
        "x-run-moves": _moves(RUN_MOVES),
        "x-step-moves": _moves(STEP_MOVES),
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def _moves(table: dict[Any, frozenset[Any]]) -> dict[str, list[str]]:
    return {
        state.value: [new.value for new in state.__class__ if new in moves]
        for state, moves in table.items()
    }
