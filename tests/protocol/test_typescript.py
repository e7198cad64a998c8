"""The TypeScript types: up to date, whole, and of the schema's own meaning."""

import re
from typing import Any, get_args

import msgspec
import pytest

from protocol.commands import Command
from protocol.errors import CloseCode, ErrorCode
from protocol.frames import ControlFrame, StoredFrame
from protocol.schema import wire_schema
from protocol.typescript import typescript
from server.contracts import types
from tests.protocol.golden import TYPES

TEXT = typescript()
KINDS = get_args(Command) + get_args(StoredFrame) + get_args(ControlFrame)


def declared(name: str, text: str = TEXT) -> str:
    """What is declared under a name, on one line."""
    found = re.search(
        rf"^export (?:type|interface) {name}\b[ =]*(.*?)^(?:\}}|$)", text, re.M | re.S
    )
    assert found, name
    return " ".join(found[1].split()).lstrip("{ ")


def test_the_file_is_up_to_date() -> None:
    assert TYPES.read_bytes() == types(), "PYTHONPATH=. python -m tests.protocol.golden writes it"


def test_everything_of_the_schema_is_declared_once() -> None:
    names = re.findall(r"^export (?:type|interface) (\w+)", TEXT, re.M)
    unions = {"message", "stored_frame", "control_frame", "frame"}
    wanted = set(wire_schema()["$defs"]) - unions
    assert len(names) == len(set(names))
    assert set(names) == wanted | {"Command", "StoredFrame", "ControlFrame", "Frame", "CloseCode"}


def test_every_name_that_is_used_is_declared() -> None:
    names = set(re.findall(r"^export (?:type|interface) (\w+)", TEXT, re.M))
    code = re.sub(r"/\*\*.*?\*/|//[^\n]*|\"[^\"]*\"", "", TEXT, flags=re.S)
    used = set(re.findall(r"\b[A-Z]\w+", code))
    assert used == names | {"Record"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_and_frame_is_told_by_its_type(kind: type[msgspec.Struct]) -> None:
    fields = declared(kind.__name__)
    assert fields.startswith(f'type: "{kind.__struct_config__.tag}";')
    for field in msgspec.structs.fields(kind):
        assert re.search(rf"\b{field.encode_name}\??: ", fields), field.encode_name


def test_the_unions_are_those_of_the_wire() -> None:
    for name, union in (
        ("Command", Command), ("StoredFrame", StoredFrame), ("ControlFrame", ControlFrame),
    ):  # fmt: skip
        members = [kind.__name__ for kind in get_args(union)]
        assert declared(name).rstrip(";").split(" | ") == [f"| {members[0]}", *members[1:]]
    assert declared("Frame") == "StoredFrame | ControlFrame;"
    codes = re.findall(r'"(\w+)"', declared("ErrorCode"))
    assert codes == [code.value for code in ErrorCode]
    assert re.findall(r"\d+", declared("CloseCode")) == [str(code.value) for code in CloseCode]


def test_what_may_be_left_out_says_so() -> None:
    assert "subscribe?: boolean;" in declared("Launch")
    assert "key: string;" in declared("Launch")
    assert "seq: number; at: string;" in declared("FlowRunStatus"), "a stored frame has both"
    assert "model: string | null;" in declared("Run"), "every key of a run is always there"
    assert "from: number;" in declared("FlowRunSubscribed")


def test_the_shapes() -> None:
    shapes: dict[str, Any] = {
        "LineRange": "[number, number];",
        "Detail": '"full" | "outline";',
        "Coverage": "left_out?: Record<string, number>;",
        "Receipt": "levels?: Level[];",
        "FlowRunStepNotice": "data?: Record<string, unknown>;",
        "Step": "output: unknown;",
        "LaunchBody": "input: Record<string, unknown> & { question: string; };",
        "FlowRunHeartbeat": "heads: Record<string, number>;",
        "ReadOnly": None,
    }
    for name, shape in shapes.items():
        if shape is None:
            assert not re.search(rf"^export \w+ {name}\b", TEXT, re.M)
        else:
            assert shape in declared(name)


def test_comments_come_from_the_docstrings_and_end_where_they_should() -> None:
    docs = {"Queue": {"place": "1 is next */ not the end"}}
    text = typescript(docs)
    assert "/** 1 is next *\\/ not the end */\n  place: number;" in text
    assert "/** One row of a live run list. */\nexport interface IndexRow {" in text
    assert max(map(len, types().decode().splitlines())) <= 100
