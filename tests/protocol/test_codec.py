"""Whatever the bytes: a Struct or a ProtocolError."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.codec import (
    MESSAGE_LIMIT,
    MESSAGE_TYPES,
    NESTING,
    UnknownFrame,
    decode_command,
    decode_frame,
    encode_frame,
    id_of,
    parse_json,
    too_deep,
)
from protocol.commands import Launch, Ping, Subscribe
from protocol.errors import BadMessage, ErrorCode, MessageTooLarge, ProtocolError
from protocol.frames import FlowRunError, FlowRunStatus, FlowRunStepNotice, Frame
from protocol.ids import RunId, StepId
from tests.protocol.samples import COMMANDS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def message(**fields: Any) -> str:
    return json.dumps(fields)


def refused(text: str | bytes) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        decode_command(text)
    return caught.value


@pytest.mark.parametrize("text", ["", "{", "nonsense", "NaN", '{"a":1,}', "\ufeff{}", b"\xff"])
def test_what_is_no_json_is_refused_without_an_id(text: str | bytes) -> None:
    error = refused(text)
    assert (error.code, error.id, error.field) == (ErrorCode.BAD_MESSAGE, "", None)


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "null", "true"])
def test_what_is_no_object_is_refused(text: str) -> None:
    assert "object" in refused(text).message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"type": "ping"}, "id"),
        ({"type": "ping", "id": ""}, "id"),
        ({"type": "ping", "id": "x" * 65}, "id"),
        ({"type": "ping", "id": 7}, "id"),
        ({"id": "a"}, "type"),
        ({"type": "nope", "id": "a"}, "type"),
        ({"type": 3, "id": "a"}, "type"),
        ({"type": "cancel", "id": "a"}, "run_id"),
        ({"type": "launch", "id": "a"}, "key"),
        ({"type": "launch", "id": "a", "key": "k", "band": "huge"}, "band"),
        ({"type": "launch", "id": "a", "key": "k", "input": []}, "input"),
        ({"type": "launch", "id": "a", "key": "k", "command": "x" * 64_001}, "command"),
        ({"type": "rerun", "id": "a", "run_id": "r", "key": "k", "steps": ["s", 1]}, "steps[1]"),
        ({"type": "subscribe", "id": "a", "run_id": "r", "after": {"gen": 1}}, "after.seq"),
        (
            {"type": "subscribe", "id": "a", "run_id": "r", "after": {"gen": 0, "seq": 1}},
            "after.gen",
        ),
        ({"type": "subscribe", "id": "a", "run_id": "r", "tail": -1}, "tail"),
        ({"type": "subscribe", "id": "a", "run_id": "r", "tail": 10**30}, "tail"),
        ({"type": "subscribe", "id": "a", "run_id": "r", "detail": "some"}, "detail"),
    ],
)
def test_an_error_names_the_field(fields: dict[str, Any], field: str) -> None:
    error = refused(message(**fields))
    assert error.field == field
    assert error.message
    assert "$" not in error.message


def test_the_id_is_recovered_from_a_bad_message() -> None:
    assert refused('{"type":"nope","id":"m7"}').id == "m7"
    assert refused('{"type":"launch","id":"m8","key":"k","input":{"a":1e999}}').id == "m8"
    with pytest.raises(MessageTooLarge) as caught:
        decode_command(message(type="ping", id="m9", pad="x" * MESSAGE_LIMIT))
    assert caught.value.id == "m9"


def test_an_unusable_id_is_not_echoed() -> None:
    assert refused('{"type":"nope","id":["m7"]}').id == ""
    assert refused(message(type="nope", id="x" * 65)).id == ""
    assert id_of("x" * 2_000_000) == ""


def test_an_unknown_type_lists_the_known_ones() -> None:
    error = refused('{"type":"nope","id":"a"}')
    assert error.hint is not None
    assert all(name in error.hint for name in MESSAGE_TYPES)


def test_an_unknown_band_lists_the_known_ones() -> None:
    assert refused(message(type="launch", id="a", key="k", band="x")).hint == (
        "one of small, medium, large"
    )


def test_an_error_does_not_repeat_long_input() -> None:
    error = refused(message(type="launch", id="a", key="k", band="x" * 50_000))
    assert len(error.message) <= 300


def test_unknown_fields_are_ignored() -> None:
    assert decode_command('{"type":"ping","id":"a","later":{"x":[1]}}') == Ping(id="a")


def test_the_limit_counts_bytes_and_includes_itself() -> None:
    text = message(type="ping", id="a", pad="")
    full = text.replace('""', '"' + "x" * (MESSAGE_LIMIT - len(text)) + '"')
    assert decode_command(full) == Ping(id="a")
    with pytest.raises(MessageTooLarge):
        decode_command(full.replace("x", "é", 1))


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud800", "\ufffd"),
        (r"\udc00\ud800", "\ufffd\ufffd"),
        (r"\uD83D\uDE00", "😀"),
        (r"\ud800\u0041", "\ufffdA"),
        (r"\ud800\ud83d\ude00", "\ufffd😀"),
        (r"\\ud800", r"\ud800"),
        (r"\\\ud800", "\\\ufffd"),
        (r"\"\uDFFF\n", '"\ufffd\n'),
    ],
)
def test_lone_surrogates_become_replacement_characters(escaped: str, text: str) -> None:
    assert decode_command(f'{{"type":"ping","id":"{escaped}"}}') == Ping(id=text)
    assert parse_json(f'"{escaped}"') == text


def test_plain_lone_surrogates_become_replacement_characters() -> None:
    assert decode_command('{"type":"ping","id":"\ud800"}') == Ping(id="\ufffd")


def test_an_input_is_kept_as_it_came() -> None:
    given_input = {"question": "q", "big": 10**40, "half": 0.5, "deep": [[{"a": None}]]}
    command = decode_command(message(type="launch", id="a", key="k", input=given_input))
    assert isinstance(command, Launch)
    assert command.input == given_input


@pytest.mark.parametrize(("levels", "deep"), [(NESTING - 1, False), (NESTING + 1, True)])
def test_an_input_has_a_bound_of_nesting(levels: int, *, deep: bool) -> None:
    value: Any = "end"
    for _ in range(levels):
        value = [value]
    assert too_deep({"a": value}) is deep
    text = message(type="launch", id="a", key="k", input={"a": value})
    if deep:
        assert refused(text).field == "input"
    else:
        assert isinstance(decode_command(text), Launch)


@pytest.mark.parametrize("inner", ["[" * 30_000, "[" * 30_000 + "]" * 30_000, '{"a":' * 10_000])
def test_deep_nesting_is_refused(inner: str) -> None:
    for place in ("input", "unknown"):
        refused(f'{{"type":"launch","id":"a","key":"k","{place}":{{"a":{inner}}}}}')
    with pytest.raises(BadMessage):
        parse_json(inner.encode())


@pytest.mark.parametrize("number", ["9" * 5000, "1e999", "-1e999", "NaN", "Infinity", "01", "1e"])
def test_impossible_numbers_are_refused(number: str) -> None:
    refused(f'{{"type":"launch","id":"a","key":"k","input":{{"a":{number}}}}}')
    refused(f'{{"type":"subscribe","id":"a","run_id":"r","tail":{number}}}')


@given(st.binary() | st.text())
@example(b'{"type":"ping","id":"\xed\xa0\x80"}')
def test_any_bytes_are_a_command_or_refused(data: bytes | str) -> None:
    try:
        decode_command(data)
    except ProtocolError as error:
        assert error.message


@given(st.sampled_from(list(COMMANDS.values())), st.data())
def test_a_message_with_any_value_anywhere_is_a_command_or_refused(
    command: msgspec.Struct, data: st.DataObject
) -> None:
    fields = msgspec.to_builtins(command)
    name = data.draw(st.sampled_from([*fields, "later"]))
    text = json.dumps(fields | {name: data.draw(JSON)})
    try:
        decode_command(text)
    except BadMessage as error:
        assert error.id == ("" if name == "id" else error.id)


@given(st.text(alphabet=st.characters(codec=None, categories=["Cs", "Lu"]), max_size=20))
def test_escaped_text_of_any_kind_is_read_as_python_reads_it(text: str) -> None:
    """Python's own decoder pairs surrogates the same way and keeps the lone ones."""
    escaped = json.dumps(text)
    expected = "".join(
        "\ufffd" if "\ud800" <= character <= "\udfff" else character
        for character in json.loads(escaped)
    )
    assert parse_json(escaped.encode()) == expected


def test_a_frame_with_lone_surrogates_is_sent_with_replacement_characters() -> None:
    frame = FlowRunStepNotice(
        run_id=RunId("r"),
        step_id=StepId("s"),
        attempt=1,
        code="c",
        message="a\ud800b",
        data={"k\udc00": ["\ud800", 1]},
    )
    fields = msgspec.json.decode(encode_frame(frame))
    assert fields["message"] == "a\ufffdb"
    assert fields["data"] == {"k\ufffd": ["\ufffd", 1]}
    assert fields["type"] == "flow_run_step_notice"


def test_a_client_reads_text_and_bytes() -> None:
    text = '{"type":"flow_run_status","run_id":"r","seq":1,"at":"t","status":"running","new":1}'
    assert decode_frame(text) == decode_frame(text.encode())
    assert isinstance(decode_frame(text), FlowRunStatus)


def test_an_unknown_stored_frame_keeps_its_seq() -> None:
    frame = decode_frame('{"type":"flow_run_later","run_id":"r","seq":9,"at":"t","x":1}')
    assert frame == UnknownFrame(type="flow_run_later", run_id=RunId("r"), seq=9)  # type: ignore[arg-type]  # a plain int is a Seq


def test_an_unknown_control_frame_has_no_seq_of_its_own() -> None:
    frame = decode_frame('{"type":"flow_run_later","run_id":"r","seq":9}')
    assert frame == UnknownFrame(type="flow_run_later", run_id=RunId("r"))


def test_a_known_frame_with_a_value_of_later_counts_like_an_unknown_one() -> None:
    frame = decode_frame(
        '{"type":"flow_run_status","run_id":"r","seq":9,"at":"t","status":"paused"}'
    )
    assert isinstance(frame, UnknownFrame)
    assert frame.seq == 9


def test_an_error_code_of_later_still_answers_its_message() -> None:
    frame = decode_frame('{"type":"flow_run_error","id":"m1","code":"later","message":"m"}')
    assert frame == FlowRunError(id="m1", code=ErrorCode.INTERNAL, message="m")


@pytest.mark.parametrize(
    "data", ["", "[]", "{}", '{"type":1}', b"\xff", '{"type":"x","run_id":1}', "[" * 5000]
)
def test_a_client_refuses_what_is_no_frame(data: str | bytes) -> None:
    with pytest.raises(BadMessage):
        decode_frame(data)


@given(st.binary() | JSON.map(json.dumps))
def test_any_bytes_are_a_frame_or_refused(data: bytes | str) -> None:
    try:
        assert isinstance(decode_frame(data), Frame | UnknownFrame | msgspec.Struct)
    except BadMessage as error:
        assert error.message


def test_a_subscription_needs_no_place() -> None:
    assert decode_command('{"type":"subscribe","id":"a","run_id":"r"}') == Subscribe(
        id="a", run_id=RunId("r")
    )
