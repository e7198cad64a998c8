"""`docs/wire.md` says all that there is, and its examples are messages."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from protocol.codec import MESSAGE_LIMIT, NESTING, decode_command
from protocol.commands import Command
from protocol.connection import HELLO_SECONDS, MAX_GARBAGE
from protocol.errors import CLOSE_RULES, CloseCode, ErrorCode
from protocol.frames import ControlFrame, StoredFrame
from protocol.resources import Run, Step
from protocol.states import RunStatus, StepStatus

PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text("utf-8")
NAMES = set(re.findall(r"`([^`\n]+)`", PAGE))
KINDS = get_args(Command) + get_args(StoredFrame) + get_args(ControlFrame)


def row(name: str) -> str:
    """The line of a table whose first cell is `name`."""
    return next(line for line in PAGE.splitlines() if line.startswith(f"| {name} |"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_and_frame_has_its_row_with_its_own_fields(
    kind: type[msgspec.Struct],
) -> None:
    line = row(f"`{kind.__struct_config__.tag}`")
    common = {"id", "run_id", "seq", "at", "step_id", "attempt"}
    if kind.__name__ == "Plan":  # its row refers to launch's
        common |= {"project_id", "command", "flow_name", "band", "input", "model"}
    for field in msgspec.structs.fields(kind):
        assert field.encode_name in common or re.search(rf"`{field.encode_name}\??`", line)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_code_has_its_row(code: ErrorCode) -> None:
    assert row(f"`{code.value}`")


@pytest.mark.parametrize("code", list(CloseCode))
def test_every_close_code_has_its_row(code: CloseCode) -> None:
    rule = CLOSE_RULES[code]
    come_back = "yes" if rule.reconnect else "no"
    assert row(str(code.value)) == f"| {code.value} | {rule.reason} | {come_back} |"


def test_every_state_is_named() -> None:
    states: list[RunStatus | StepStatus] = [*RunStatus, *StepStatus]
    assert {state.value for state in states} <= NAMES


@pytest.mark.parametrize("kind", [Run, Step])
def test_every_key_of_a_resource_is_named(kind: type[msgspec.Struct]) -> None:
    assert set(kind.__struct_fields__) <= NAMES


def test_the_limits_are_those_of_the_code() -> None:
    assert f"{MESSAGE_LIMIT} bytes" in row("one message")
    assert f"{NESTING} levels" in row("nesting of `input`")
    assert f"| {MAX_GARBAGE} |" in row("messages in a row without an id that can be read")
    assert f"{HELLO_SECONDS:.0f} s" in row("`hello` of a socket without credentials")


def test_the_examples_are_messages() -> None:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 2
    for line in lines:
        decode_command(line)
