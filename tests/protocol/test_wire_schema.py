"""`podium schema`: every golden line is valid by it, and what is wrong is not."""

import json
import os
import subprocess
import sys
from functools import cache
from typing import Annotated, Any, get_args

import msgspec
import pytest
from jsonschema import Draft202012Validator

from protocol.commands import Command
from protocol.errors import CLOSE_RULES, ErrorCode
from protocol.frames import ControlFrame, StoredFrame
from protocol.rest import PlanBody
from protocol.schema import Components, wire_schema
from tests.protocol.golden import stored_lines

FRAMES = [json.loads(line) for line in stored_lines("frames.jsonl")]
MESSAGES = [json.loads(line) for line in stored_lines("commands.jsonl")]


@cache
def validator(name: str | None = None) -> Draft202012Validator:
    document = wire_schema()
    if name is not None:
        document = {"$defs": document["$defs"], "$ref": f"#/$defs/{name}"}
    return Draft202012Validator(document)


def test_the_document_is_a_schema() -> None:
    Draft202012Validator.check_schema(wire_schema())
    assert msgspec.json.decode(msgspec.json.encode(wire_schema())) == wire_schema()


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame["type"])
def test_every_golden_frame_is_valid(frame: dict[str, Any]) -> None:
    validator().validate(frame)
    validator("stored_frame" if "at" in frame and "seq" in frame else "control_frame").validate(
        frame
    )


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["type"])
def test_every_golden_message_is_valid(message: dict[str, Any]) -> None:
    validator().validate(message)
    validator("message").validate(message)


@pytest.mark.parametrize("sample", FRAMES + MESSAGES, ids=lambda sample: sample["type"])
def test_a_sample_without_its_type_or_of_another_is_not_valid(sample: dict[str, Any]) -> None:
    assert not validator().is_valid({**sample, "type": "nope"})
    assert not validator().is_valid({key: sample[key] for key in sample if key != "type"})


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame["type"])
def test_a_frame_with_a_field_of_a_wrong_type_is_not_valid(frame: dict[str, Any]) -> None:
    names = [name for name in frame if name not in ("type", "input", "data")]
    for name in names:
        assert not validator().is_valid({**frame, name: [["wrong"]]}), name


@pytest.mark.parametrize("sample", FRAMES + MESSAGES, ids=lambda sample: sample["type"])
def test_a_sample_with_a_field_of_later_is_valid(sample: dict[str, Any]) -> None:
    validator().validate({**sample, "later": {"x": 1}})


def test_every_struct_and_union_is_in_it() -> None:
    names = set(wire_schema()["$defs"])
    kinds = get_args(StoredFrame) + get_args(ControlFrame) + get_args(Command)
    assert {kind.__name__ for kind in kinds} <= names
    assert {"message", "stored_frame", "control_frame", "frame", "Run", "Step", "Report"} <= names
    assert {"LaunchBody", "RunList", "RunDetail", "InvalidBody", "ErrorBody"} <= names


def test_the_tables_are_in_it() -> None:
    document = wire_schema()
    assert document["x-error-codes"] == [code.value for code in ErrorCode]
    assert set(document["x-close-codes"]) == {str(code.value) for code in CLOSE_RULES}
    assert document["x-run-moves"]["queued"] == ["running", "cancelling", "failed"]
    assert document["x-step-moves"]["completed"] == []


def test_the_order_does_not_depend_on_the_process() -> None:
    code = "import json; from protocol.schema import wire_schema; print(json.dumps(wire_schema()))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert json.loads(outputs.pop()) == wire_schema()


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(pattern=r"\A[a-z]+\Z")]
    size: int = 0
    """In bytes."""


class Spare(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    size: int = 0


def test_a_key_is_required_where_it_is_always_there() -> None:
    components = Components(
        [Sent, Spare, PlanBody], "#/$defs/", docs={"Sent": {"size": "In bytes."}}
    )
    sent, spare, asked = (components.definitions[name] for name in ("Sent", "Spare", "PlanBody"))
    assert sent["required"] == ["name", "size"]
    assert sent["properties"]["size"] == {"type": "integer", "description": "In bytes."}
    assert spare["required"] == ["name"]
    assert spare["properties"]["size"] == {"type": "integer", "default": 0}
    assert asked["required"] == [], "a client leaves out what has a default"
    assert components.of(Sent) == {"$ref": "#/$defs/Sent"}


def test_a_pattern_is_one_that_javascript_knows() -> None:
    components = Components([Sent, Annotated[str, msgspec.Meta(pattern=r"\Ab\Z")]], "#/", docs={})
    assert components.definitions["Sent"]["properties"]["name"]["pattern"] == "^[a-z]+$"
    assert components.of(Annotated[str, msgspec.Meta(pattern=r"\Ab\Z")])["pattern"] == "^b$"
