"""Hostile output: what is wrong in a line never raises, and never becomes a success."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import encode_frame
from protocol.frames import FlowRunStepDelta, FlowRunStepNotice, FlowRunStepTool, ToolStatus
from server.agents import stream_json
from server.agents.outcome import Delivered, outcome
from server.agents.stream_json import StreamParser
from server.ports import AgentFailure, AgentFrame
from tests.server.test_stream_json import INIT, REF, RESULT, error, parsed, text

EVENTS: list[dict[str, Any]] = [
    INIT, RESULT, text("hello"), error("[API Error: 500 x]"),
    {"type": "system", "subtype": "retry", "data": {"attempt": 1, "delayMs": 2_000}},
    {"type": "assistant", "message": {"content": [
        {"type": "tool_use", "id": "1", "name": "read_file", "input": {"path": "/copy/a"}}]}},
    {"type": "user", "message": {"content": [
        {"type": "tool_result", "tool_use_id": "1", "is_error": True, "content": "no"}]}},
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def failure(parser: StreamParser, *, code: int = 0, stderr: str = "") -> AgentFailure:
    came = outcome(parser, exit_code=code, stderr=stderr)
    assert isinstance(came, AgentFailure)
    return came


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside JSON."""
    items = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list) else ()
    )  # fmt: skip
    return [path, *(it for key, child in items for it in places(child, (*path, key)))]


def with_at(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = with_at(value[path[0]], path[1:], new)
    return copy


@given(st.data())
def test_any_value_at_any_place_is_tolerated(data: st.DataObject) -> None:
    """The fields of known events hold what they like: nothing raises, and frames can be sent."""
    event = data.draw(st.sampled_from(EVENTS))
    changed = with_at(event, data.draw(st.sampled_from(places(event))), data.draw(JSON))
    parser, frames = parsed(INIT, changed, text("on"), RESULT)
    for frame in frames:
        encode_frame(frame)
    outcome(parser, exit_code=0, stderr="")
    assert parser.usage.input_tokens >= 0
    offset = 0
    for frame in frames:
        if isinstance(frame, FlowRunStepDelta):
            assert frame.offset == offset
            offset += len(frame.text)


@pytest.mark.parametrize("value", ["many", "NaN", 1e999, -1e999, [1], {"a": 1}, True, "\ud800"])
def test_a_count_that_is_none_does_not_raise(value: object) -> None:
    parser, _ = parsed(INIT, {**RESULT, "usage": {"input_tokens": value}})
    outcome(parser, exit_code=0, stderr="")
    parsed({"type": "system", "subtype": "retry", "data": {"delayMs": value}})


def test_half_a_character_becomes_a_sign_for_it() -> None:
    parser, frames = parsed(INIT, text("a\ud800"), text("b"), error("[API Error: 500 \udfff]"))
    deltas = [frame for frame in frames if isinstance(frame, FlowRunStepDelta)]
    assert [(it.offset, it.text) for it in deltas] == [(0, "a\ufffd"), (2, "b")]
    failure(parser).message.encode()
    parser, _ = parsed(INIT, {**RESULT, "structured_result": {"a\ud800": ["\udc00", "🙂"]}})
    assert outcome(parser, exit_code=0, stderr="") == Delivered({"a\ufffd": ["\ufffd", "🙂"]})


def test_a_second_introduction_does_not_heal_the_first() -> None:
    parser, _ = parsed({**INIT, "permission_mode": "yolo"}, INIT, RESULT)
    assert failure(parser).reason == "wrong_mode"


@pytest.mark.parametrize("field", ["permission_mode", "model", "tools", "mcp_servers"])
def test_an_introduction_without_a_field_is_none(field: str) -> None:
    parser, _ = parsed({key: INIT[key] for key in INIT if key != field}, RESULT)
    assert failure(parser).reason == "no_result"


def test_a_line_of_megabytes_is_whole_and_one_of_more_ends_the_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = "x" * 5_000_000
    parser, frames = parsed(INIT, text(long), RESULT)
    assert sum(len(it.text) for it in frames if isinstance(it, FlowRunStepDelta)) == len(long)
    assert isinstance(outcome(parser, exit_code=0, stderr=""), Delivered)
    monkeypatch.setattr(stream_json, "MAX_LINE", 1_000)
    parser = StreamParser(REF, model="m", tree="/copy")
    for _ in range(20):
        parser.feed(b"x" * 100)
    assert failure(parser).reason == "output_limit"


def test_a_broken_line_in_the_middle_is_no_success() -> None:
    parser = StreamParser(REF, model="m", tree="/copy")
    parser.feed(json.dumps(INIT).encode() + b"\n{broken\n" + json.dumps(RESULT).encode() + b"\n")
    assert (failure(parser).reason, failure(parser).retryable) == ("cut_output", True)


def test_empty_lines_and_unknown_events_are_nothing() -> None:
    unknown = {"type": "stream_event", "event": {"type": "goal_state", "goal": None}}
    parser, frames = parsed(INIT, unknown, {"type": "new"}, {"type": ["x"]}, RESULT, tail=b"\n \n")
    assert frames == []
    assert isinstance(outcome(parser, exit_code=0, stderr=""), Delivered)


@pytest.mark.parametrize(
    ("message", "reason", "retryable"),
    [
        ("[API Error: 403 no]", "endpoint_refused_key", False),
        ("[API Error: 503 busy]", "api_error", True),
        ("[API Error: 422 no]", "api_error", False),
        ("[API Error: Connection error. (cause: connect ECONNREFUSED 10.0.0.1:443)]", "api_error",
         True),
        ("[API Error: terminated after 404 bytes]", "api_error", True),
        ("[API Error: 400 This model's maximum context length is 4096 tokens]", "context_exceeded",
         False),
        ("[API Error: 413 prompt exceeds the context]", "context_exceeded", False),
        ("No auth type is selected", "agent_error", False),
    ],
)  # fmt: skip
def test_what_the_endpoint_said(message: str, reason: str, *, retryable: bool) -> None:
    parser, _ = parsed(INIT, error(message))
    assert (failure(parser, code=1).reason, failure(parser).retryable) == (reason, retryable)
    parser, _ = parsed(INIT, {**RESULT, "result": message, "structured_result": None})
    assert failure(parser).reason == (reason if "API" in message else "plain_text")


@pytest.mark.parametrize("said", ["So far[API Error: 500 x]", "So\n[API Error: 500 x]\n"])
def test_an_answer_that_ends_in_an_error_is_one(said: str) -> None:
    parser, _ = parsed(INIT, {**RESULT, "result": said, "structured_result": None})
    assert failure(parser).reason == "api_error"


@pytest.mark.parametrize("change", [
    {"is_error": True}, {"subtype": "error_during_execution"}, {"subtype": None},
])  # fmt: skip
def test_a_result_with_an_error_is_an_error_whatever_it_holds(change: dict[str, Any]) -> None:
    parser, _ = parsed(INIT, {**RESULT, **change})
    assert failure(parser).reason == "agent_error"


@pytest.mark.parametrize("code", [1, 53, 55, 130, 139, -9, -15])
def test_a_result_does_not_excuse_an_exit_code(code: int) -> None:
    parser, _ = parsed(INIT, RESULT)
    failure(parser, code=code, stderr="banner\nlast words\n\n")


@pytest.mark.parametrize("raw", [None, {}, []])
def test_an_empty_result_may_be_repaired(raw: object) -> None:
    parser, _ = parsed(INIT, {**RESULT, "structured_result": raw})
    assert failure(parser).repairable


def test_usage_denials_and_a_refused_tool() -> None:
    denied = {"tool_name": "write_file", "tool_use_id": "1", "tool_input": {}}
    usage = {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 2}
    call = {"type": "tool_use", "id": "1", "name": "write_file", "input": {"path": "x"}}
    reply = {
        "type": "tool_result", "tool_use_id": "1", "is_error": True,
        "content": [{"type": "text", "text": "Tool requires permission"}],
    }  # fmt: skip
    parser, frames = parsed(
        INIT,
        {"type": "assistant", "message": {"content": [call]}},
        {"type": "user", "message": {"content": [reply]}},
        {**RESULT, "usage": usage, "permission_denials": [denied]},
    )
    tools = [frame for frame in frames if isinstance(frame, FlowRunStepTool)]
    assert [tool.status for tool in tools] == [ToolStatus.RUNNING, ToolStatus.DENIED]
    assert parser.denials == ["write_file"]
    assert (parser.usage.input_tokens, parser.usage.output_tokens) == (7, 3)
    assert (parser.usage.cached_tokens, parser.usage.requests) == (2, 1)


def test_a_retry_that_starts_anew_says_so() -> None:
    data = {"attempt": 2, "maxRetries": 10, "delayMs": 1_500, "preserveText": False}
    _, frames = parsed(INIT, {"type": "system", "subtype": "retry", "data": data})
    (notice,) = frames
    assert isinstance(notice, FlowRunStepNotice)
    assert (notice.code, notice.data) == ("model_retry", data)
    assert "anew" in notice.message


@given(st.lists(st.text(st.characters(), max_size=30), max_size=12), st.integers(1, 50))
def test_offsets_are_consistent_at_any_cut(words: list[str], size: int) -> None:
    data = b"".join(json.dumps(text(word)).encode() + b"\n" for word in words)
    parser = StreamParser(REF, model="m", tree="/copy")
    frames: list[AgentFrame] = []
    for start in range(0, len(data), size):
        frames += parser.feed(data[start:][:size])
    told = ""
    for frame in frames:
        assert isinstance(frame, FlowRunStepDelta)
        assert frame.offset == len(told)
        told += frame.text
    assert len(told) == sum(map(len, words))
    assert not parser.broken_lines
