"""The bytes of the wire stay what they are.

When a frame gained a field: fill it in `samples.py`, then
`PYTHONPATH=. python -m tests.protocol.golden` writes the files anew.
"""

from typing import Any, get_args

import msgspec
import pytest

from protocol.codec import UnknownFrame, decode_command, decode_frame, encode_frame
from protocol.commands import Command
from protocol.frames import ControlFrame, StoredFrame
from tests.protocol.golden import command_lines, frame_lines, stored_lines
from tests.protocol.samples import COMMANDS, FRAMES

FRAME_TYPES = get_args(StoredFrame) + get_args(ControlFrame)


@pytest.mark.parametrize(("place", "name"), list(enumerate(FRAMES)))
def test_no_frame_changes_its_bytes(place: int, name: str) -> None:
    assert frame_lines()[place] == stored_lines("frames.jsonl")[place], name


@pytest.mark.parametrize(("place", "name"), list(enumerate(COMMANDS)))
def test_no_message_changes_its_bytes(place: int, name: str) -> None:
    assert command_lines()[place] == stored_lines("commands.jsonl")[place], name


def test_the_files_hold_no_line_without_a_sample() -> None:
    assert len(stored_lines("frames.jsonl")) == len(FRAMES)
    assert len(stored_lines("commands.jsonl")) == len(COMMANDS)


def test_every_frame_and_message_has_a_line() -> None:
    assert {type(frame) for frame in FRAMES.values()} == set(FRAME_TYPES)
    assert {type(command) for command in COMMANDS.values()} == set(get_args(Command))


@pytest.mark.parametrize("kind", FRAME_TYPES + get_args(Command))
def test_every_field_is_filled_somewhere(kind: type[msgspec.Struct]) -> None:
    """Omitted defaults would hide a field from the golden files."""
    samples: list[Any] = [*FRAMES.values(), *COMMANDS.values()]
    seen: set[str] = set()
    for sample in samples:
        if type(sample) is kind:
            seen |= set(msgspec.to_builtins(sample))
    fields = {field.encode_name for field in msgspec.structs.fields(kind)}
    if kind.__name__ == "Plan":  # its fields are launch's, where they are filled
        fields -= {"flow_name", "band", "input", "model"}
    assert fields <= seen


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_survives_the_round_trip(name: str) -> None:
    frame = FRAMES[name]
    decoded = decode_frame(encode_frame(frame))
    assert not isinstance(decoded, UnknownFrame)
    assert type(decoded) is type(frame)
    assert encode_frame(decoded) == encode_frame(frame)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_message_survives_the_round_trip(name: str) -> None:
    command = COMMANDS[name]
    assert decode_command(msgspec.json.encode(command).decode()) == command


@pytest.mark.parametrize("name", FRAMES)
def test_every_server_frame_is_called_a_flow_run(name: str) -> None:
    fields = msgspec.json.decode(encode_frame(FRAMES[name]))
    assert fields["type"].startswith("flow_run_")
    assert next(iter(fields)) == "type"
    stored = isinstance(FRAMES[name], get_args(StoredFrame))
    assert ({"run_id", "seq", "at"} <= set(fields)) == stored
