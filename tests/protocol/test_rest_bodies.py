"""`POST /api/runs` and `GET /api/runs`: what is taken, and every fault told at once."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.commands import Band, Cursor, Detail
from protocol.ids import ProjectId
from protocol.rest import (
    CommandBody,
    InvalidRequest,
    LaunchBody,
    LogQuery,
    parse_launch,
    parse_list_query,
    parse_log_query,
)

PROJECT = "6f1c2d3e-4b5a-4968-8776-95a4b3c2d1e0"
BODY: dict[str, Any] = {
    "project_id": PROJECT,
    "flow_name": "code-review",
    "band": "small",
    "input": {"question": "why?"},
}


def parse(**changes: Any) -> LaunchBody:
    body = parse_launch(json.dumps(BODY | changes).encode())
    assert isinstance(body, LaunchBody)
    return body


def faults(data: bytes) -> tuple[list[str], dict[str, list[str]]]:
    with pytest.raises(InvalidRequest) as caught:
        parse_launch(data)
    assert caught.value.what == "invalid body"
    return caught.value.form_errors, caught.value.field_errors


def field_faults(**changes: Any) -> dict[str, list[str]]:
    form, fields = faults(json.dumps(BODY | changes).encode())
    assert form == []
    return fields


def test_a_body_is_read() -> None:
    body = parse(model="qwen3-coder")
    assert (body.project_id, body.flow_name, body.band) == (PROJECT, "code-review", Band.SMALL)
    assert (body.input, body.model) == ({"question": "why?"}, "qwen3-coder")


def test_a_command_is_a_body_too() -> None:
    body = {"project_id": PROJECT.upper(), "command": "/code-review small", "model": ""}
    told = parse_launch(json.dumps(body).encode())
    assert told == CommandBody(project_id=ProjectId(PROJECT), command="/code-review small")


def test_every_fault_of_a_body_by_command_is_told() -> None:
    form, fields = faults(b'{"command": 1, "flow_name": "f", "model": 2}')
    assert form == []
    assert fields == {
        "project_id": ["Required"],
        "command": ["Expected string, received number"],
        "model": ["Expected string, received number"],
        "flow_name": ["Give either a command, or a flow_name with its input"],
    }


def test_input_is_kept_as_it_came() -> None:
    given_input = {"question": "why?", "paths": ["a"], "big": 10**30, "no": None, "x": {"y": 0.5}}
    assert parse(input=given_input).input == given_input


def test_other_fields_of_the_body_are_ignored() -> None:
    assert parse(later=1) == parse()


def test_a_project_id_is_read_in_either_case() -> None:
    assert parse(project_id=PROJECT.upper()).project_id == PROJECT


def test_no_model_and_an_empty_one_are_the_same() -> None:
    assert parse().model is msgspec.UNSET
    assert parse(model="").model is msgspec.UNSET


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 20_000, b'{"input":1e999}'])
def test_what_is_no_json_is_an_error_of_the_form(data: bytes) -> None:
    form, fields = faults(data)
    assert len(form) == 1
    assert fields == {}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"[]", "array"),
        (b"1", "number"),
        (b'"x"', "string"),
        (b"null", "null"),
        (b"true", "boolean"),
    ],
)
def test_what_is_no_object_is_an_error_of_the_form(data: bytes, kind: str) -> None:
    assert faults(data) == ([f"Expected object, received {kind}"], {})


def test_every_fault_is_told_at_once() -> None:
    assert set(faults(b"{}")[1]) == {"project_id", "flow_name", "band", "input"}
    bad = {"project_id": "x", "flow_name": "", "band": "big", "input": {}, "model": 3}
    assert set(field_faults(**bad)) == set(bad)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("project_id", "x", "Invalid uuid"),
        ("project_id", None, "Expected string, received null"),
        ("project_id", PROJECT + "0", "Invalid uuid"),
        ("flow_name", "", "at least 1"),
        ("flow_name", "x" * 101, "at most 100"),
        ("flow_name", ["x"], "received array"),
        ("band", "SMALL", "'small' | 'medium' | 'large'"),
        ("band", 1, "received number"),
        ("band", None, "received null"),
        ("input", "why?", "Expected object"),
        ("input", {}, "question: Required"),
        ("input", {"question": ""}, "question: String must contain at least 1"),
        ("input", {"question": "x" * 64_001}, "question: String must contain at most 64000"),
        ("input", {"question": 1}, "question: Expected string"),
        ("model", "x" * 201, "at most 200"),
        ("model", None, "received null"),
        ("model", False, "received boolean"),
    ],
)
def test_a_fault_is_told_under_its_top_level_field(field: str, value: Any, text: str) -> None:
    found = field_faults(**{field: value})
    assert list(found) == [field]
    assert len(found[field]) == 1
    assert text in found[field][0]


def test_a_fault_does_not_repeat_long_input() -> None:
    assert len(field_faults(band="x" * 50_000)["band"][0]) < 300


def test_lengths_count_code_points() -> None:
    assert parse(flow_name="😀" * 100).flow_name == "😀" * 100
    assert parse(input={"question": "😀" * 64_000}).input["question"] == "😀" * 64_000
    assert parse(model="😀" * 200).model == "😀" * 200
    assert "flow_name" in field_faults(flow_name="😀" * 101)


def test_lone_surrogates_are_replaced() -> None:
    assert parse(input={"question": "a\ud800"}).input == {"question": "a\ufffd"}


def test_input_has_a_bound_of_nesting() -> None:
    value: Any = "end"
    for _ in range(100):
        value = [value]
    assert "Nested" in field_faults(input={"question": "q", "x": value})["input"][0]


def test_the_answer_has_the_shape_of_the_contract() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(model=3)
    assert json.loads(msgspec.json.encode(caught.value.body)) == {
        "error": "invalid body",
        "details": {
            "formErrors": [],
            "fieldErrors": {"model": ["Expected string, received number"]},
        },
    }


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(
    st.binary()
    | st.dictionaries(st.sampled_from([*BODY, "model"]), JSON_VALUES).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_body_is_read_or_refused(data: bytes) -> None:
    try:
        parse_launch(data)
    except InvalidRequest as error:
        assert error.form_errors or error.field_errors


def test_a_query_is_read() -> None:
    query = parse_list_query({"project_id": PROJECT.upper(), "before": PROJECT, "later": "1"})
    assert (query.project_id, query.before) == (PROJECT, PROJECT)
    assert parse_list_query({}).project_id is None


@pytest.mark.parametrize("value", ["", "x", "1"])
def test_a_bad_query_tells_every_fault(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_list_query({"project_id": value, "before": value})
    assert caught.value.what == "invalid query"
    assert caught.value.field_errors == {
        "project_id": ["Invalid uuid"],
        "before": ["Invalid uuid"],
    }


def test_what_msgspec_refuses_has_the_same_shape() -> None:
    def refused(data: bytes) -> InvalidRequest:
        with pytest.raises(msgspec.DecodeError) as caught:
            msgspec.json.decode(data, type=LaunchBody)
        return InvalidRequest.from_decoding("invalid body", caught.value)

    assert refused(b"{").form_errors
    assert list(refused(b"{}").field_errors) == ["project_id"]
    nested = {**BODY, "input": 1}
    assert list(refused(json.dumps(nested).encode()).field_errors) == ["input"]
    assert refused(b"[]").form_errors == ["Expected `object`, got `array`"]


# --- GET /api/runs/{id}/events -------------------------------------------------------------------


def test_an_empty_query_starts_at_the_beginning() -> None:
    assert parse_log_query({}, None) == LogQuery()
    assert parse_log_query({"later": "1"}, "") == LogQuery()


def test_the_header_is_younger_than_the_address() -> None:
    query = parse_log_query({"after": "1:2", "detail": "outline"}, "2:30")
    assert query == LogQuery(after=Cursor(gen=2, seq=30), detail=Detail.OUTLINE)


@given(st.text())
def test_a_text_is_a_cursor_only_as_an_event_has_it(text: str) -> None:
    try:
        query = parse_log_query({"after": text}, None)
    except InvalidRequest as error:
        assert list(error.field_errors) == ["after"]
    else:
        assert query.after is not None
        assert f"{query.after.gen}:{query.after.seq}" == text


@given(st.integers(1, 10**15 - 1), st.integers(0, 10**15 - 1))
def test_every_cursor_is_read(gen: int, seq: int) -> None:
    assert parse_log_query({}, f"{gen}:{seq}").after == Cursor(gen=gen, seq=seq)
