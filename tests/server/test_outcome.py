"""Hostile output: what is wrong in a line never raises, and never becomes a success."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import encode_frame
from protocol.frames import FlowRunStepDelta, FlowRunStepNotice, FlowRunStepTool, ToolStatus
from protocol.resources import Usage
from server.agents import stream_json
from server.agents.outcome import Delivered, outcome
from server.agents.stream_json import StreamParser
from server.ports import AgentFailure, AgentFrame
from tests.server.test_stream_json import EXPECTED, INIT, REF, RESULT, error, parsed, text

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
    assert failure(parser).reason == "no_introduction"


def test_a_line_of_megabytes_is_whole_and_one_of_more_ends_the_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = "x" * 5_000_000
    parser, frames = parsed(INIT, text(long), RESULT)
    assert sum(len(it.text) for it in frames if isinstance(it, FlowRunStepDelta)) == len(long)
    assert isinstance(outcome(parser, exit_code=0, stderr=""), Delivered)
    monkeypatch.setattr(stream_json, "MAX_LINE", 1_000)
    parser = StreamParser(REF, expected=EXPECTED, tree="/copy")
    for _ in range(20):
        parser.feed(b"x" * 100)
    assert failure(parser).reason == "output_limit"


@pytest.mark.parametrize("piece", [300, 999, 1_000, 1_001, 5_000])
def test_how_a_long_line_is_cut_into_pieces_makes_no_difference(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(stream_json, "MAX_LINE", 1_000)
    for size, reason in ((800, None), (1_100, "output_limit")):
        parser = parsed(INIT)[0]
        line = json.dumps(text("x" * size)).encode()[-size:] + b"\n"
        for at in range(0, len(line), piece):
            parser.feed(line[at : at + piece])
        assert (parser.failure.reason if parser.failure else None) == reason


def test_a_broken_line_in_the_middle_is_no_success() -> None:
    parser = StreamParser(REF, expected=EXPECTED, tree="/copy")
    parser.feed(json.dumps(INIT).encode() + b"\n{broken\n" + json.dumps(RESULT).encode() + b"\n")
    assert (failure(parser).reason, failure(parser).retryable) == ("garbled_output", True)


def test_empty_lines_and_unknown_events_are_nothing() -> None:
    unknown = {"type": "stream_event", "event": {"type": "goal_state", "goal": None}}
    parser, frames = parsed(INIT, unknown, {"type": "new"}, {"type": ["x"]}, RESULT, tail=b"\n \n")
    assert frames == []
    assert isinstance(outcome(parser, exit_code=0, stderr=""), Delivered)


@pytest.mark.parametrize(
    ("message", "reason", "retryable"),
    [
        ("[API Error: 403 no]", "endpoint_refused_key", False),
        ("[API Error: 503 busy]", "endpoint_overloaded", True),
        ("[API Error: 500 no]", "endpoint_overloaded", True),
        ("[API Error: 408 late]", "endpoint_overloaded", True),
        ("[API Error: 307 elsewhere]", "endpoint_redirects", False),
        ("[API Error: 400 bad JSON schema]", "api_error", False),
        ("[API Error: unheard of]", "endpoint_error", True),
        ("[API Error: 422 no]", "api_error", False),
        ("[API Error: Connection error. (cause: connect ECONNREFUSED 10.0.0.1:443)]",
         "endpoint_unreachable", True),
        ("[API Error: terminated after 404 bytes]", "stream_cut", True),
        ("[API Error: terminated (cause: UND_ERR_SOCKET: other side closed)]", "stream_cut", True),
        ("[API Error: Model stream ended without a finish reason.]", "stream_cut", True),
        ("[API Error: Model stream ended with empty response text.]", "empty_answer", True),
        ("[API Error: Unterminated string in JSON at position 28]", "stream_malformed", True),
        ("[API Error: 400 This model's maximum context length is 4096 tokens]", "context_exceeded",
         False),
        ("[API Error: 400 request (10373 tokens) exceeds the available context size (8192 tokens)]",
         "context_exceeded", False),
        ("[API Error: Model request exceeds the endpoint request-body limit (HTTP 413) and there is"
         " no earlier conversation history to compress.]", "context_exceeded", False),
        ("[API Error: 413 prompt exceeds the context]", "context_exceeded", False),
        ('[API Error: 400 "auto" tool choice requires --enable-auto-tool-choice]',
         "no_tool_calls", False),
        ("[API Error: 400 registry.ollama.ai/library/x does not support tools]",
         "no_tool_calls", False),
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
    assert failure(parser).reason == "endpoint_overloaded"


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


@pytest.mark.parametrize("raw", [None, {}, [], [1], "text", 7])
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
    assert parser.usage.cached_tokens == 2


def retry(**data: object) -> dict[str, Any]:
    return {"type": "system", "subtype": "retry", "data": {"reason": "retry", **data}}


def begun() -> dict[str, Any]:
    return {"type": "stream_event", "event": {"type": "message_start", "message": {}}}


def notices(frames: list[AgentFrame]) -> list[FlowRunStepNotice]:
    return [frame for frame in frames if isinstance(frame, FlowRunStepNotice)]


def visible(frames: list[AgentFrame]) -> str:
    """What a reader of the frames shows: the text without what a retry took back."""
    told = ""
    gone: list[tuple[int, int]] = []
    for frame in frames:
        if isinstance(frame, FlowRunStepDelta):
            told += frame.text
        elif isinstance(frame, FlowRunStepNotice) and "text_from" in frame.data:
            gone.append((frame.data["text_from"], frame.data["text_to"]))
    return "".join(c for at, c in enumerate(told) if not any(a <= at < b for a, b in gone))


def test_a_retry_that_keeps_the_text_goes_on_behind_it() -> None:
    parser, frames = parsed(
        INIT, begun(), text("So I "), retry(preserveText=True), text("So I begin."), RESULT
    )
    (notice,) = notices(frames)
    assert (notice.code, notice.data) == ("model_retry", {"preserve_text": True, "seconds": 0})
    assert visible(frames) == parser.text == "So I So I begin."
    assert parser.usage.requests == 2


def test_a_retry_that_begins_anew_takes_its_message_back_and_no_other() -> None:
    data = {"attempt": 2, "maxRetries": 10, "delayMs": 1_500, "preserveText": False}
    call = {"type": "tool_use", "id": "1", "name": "glob", "input": {"pattern": "*"}}
    reply = {"type": "tool_result", "tool_use_id": "1", "is_error": False, "content": "a"}
    parser, frames = parsed(
        INIT,
        begun(), text("I look. "),
        {"type": "assistant", "message": {"content": [call]}},
        {"type": "user", "message": {"content": [reply]}},
        begun(), text("It 🙂is"), retry(**data), retry(**data),
        begun(), text("It was."), RESULT,
    )  # fmt: skip
    (notice,) = notices(frames)
    assert notice.data == {
        "preserve_text": False, "seconds": 2, "attempt": 2, "of": 10, "text_from": 8, "text_to": 14,
    }  # fmt: skip
    assert notice.message == (
        "The model call failed and is made again in 2 s (try 2 of 10). It begins anew."
    )
    assert visible(frames) == parser.text == "I look. It was."
    assert parser.usage.requests == 3


def test_a_retry_before_a_word_takes_nothing_back() -> None:
    """What an earlier message said stands: a tool has run since."""
    call = {"type": "tool_use", "id": "1", "name": "glob", "input": {"pattern": "*"}}
    reply = {"type": "tool_result", "tool_use_id": "1", "is_error": False, "content": "a"}
    parser, frames = parsed(
        INIT,
        begun(), text("I look. "),
        {"type": "assistant", "message": {"content": [call]}},
        {"type": "user", "message": {"content": [reply]}},
        retry(preserveText=False), retry(preserveText=False), begun(), text("Done."), RESULT,
    )  # fmt: skip
    assert [notice.data for notice in notices(frames)] == [{"preserve_text": False, "seconds": 0}]
    assert visible(frames) == parser.text == "I look. Done."
    assert parser.usage.requests == 3


def test_each_announced_wait_is_told() -> None:
    waits = [retry(attempt=n, maxRetries=10, delayMs=60_000, preserveText=False) for n in (1, 2, 3)]
    parser, frames = parsed(INIT, *waits)
    assert ["60 s (try" in notice.message for notice in notices(frames)] == [True] * 3
    assert parser.usage.requests == 3


def refused_answer(arguments: dict[str, Any], why: str) -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": "1", "name": "structured_output", "input": arguments}
    reply = {"type": "tool_result", "tool_use_id": "1", "is_error": bool(why), "content": why}
    return [
        {"type": "assistant", "message": {"content": [call]}},
        {"type": "user", "message": {"content": [reply]}},
    ]


@pytest.mark.parametrize(
    ("end", "code"),
    [([], 53), ([], 55), ([error("Loop detection halted the run (x)")], 1), ([RESULT], 0)],
)
def test_answers_that_never_met_the_schema_may_be_repaired(
    end: list[dict[str, Any]], code: int
) -> None:
    why = "params/n must be integer"
    lines = refused_answer({"n": "x"}, why)
    parser, _ = parsed(INIT, *lines, begun(), text("Again: "), *end)
    came = failure(parser, code=code)
    assert (came.reason, came.repairable) == ("schema_never_met", True)
    assert why in came.message
    assert parser.text == '{"n": "x"}', "what is to be repaired is the answer"


def test_an_answer_that_met_it_in_the_end_is_one() -> None:
    lines = [*refused_answer({"n": "x"}, "must be integer"), *refused_answer({"n": 1}, "")]
    parser, _ = parsed(INIT, *lines, RESULT)
    assert outcome(parser, exit_code=0, stderr="") == Delivered({"a": 1})
    assert parser.text == '{"n": 1}'


def test_what_was_spent_counts_without_a_last_line() -> None:
    cost = {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 2}
    message = {"type": "assistant", "message": {"content": [], "usage": cost}}
    parser, _ = parsed(INIT, begun(), message, begun(), message)
    assert parser.usage == Usage(input_tokens=14, output_tokens=6, cached_tokens=4, requests=2)
    parser.feed(json.dumps({**RESULT, "usage": {"input_tokens": 20}}).encode() + b"\n")
    assert (parser.usage.input_tokens, parser.usage.output_tokens) == (20, 6)


@pytest.mark.parametrize(("stderr", "words"), [
    ("", "it said nothing"),
    ("banner\n  Error: Unknown argument: x\n\nusage of ten kilobytes\n", "Unknown argument: x"),
    ("banner\nlast words\n\n", "last words"),
])  # fmt: skip
def test_a_failure_quotes_the_complaint(stderr: str, words: str) -> None:
    parser, _ = parsed()
    came = failure(parser, code=1, stderr=stderr)
    assert came.reason == "usage_error"
    assert words in came.message


def test_who_was_killed_or_crashed_says_what_memory_has_to_do_with_it() -> None:
    parser, _ = parsed(INIT)
    killed = failure(parser, code=-9)
    assert (killed.reason, killed.retryable) == ("killed", True)
    assert "memory ran out" in killed.message
    heap = "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory"
    assert failure(parser, code=134, stderr=heap).reason == "memory_limit"
    assert failure(parser, code=-5, stderr=heap).reason == "memory_limit"
    assert failure(parser, code=-11, stderr="").reason == "crashed"


@given(st.lists(st.text(st.characters(), max_size=30), max_size=12), st.integers(1, 50))
def test_offsets_are_consistent_at_any_cut(words: list[str], size: int) -> None:
    events = [INIT, *map(text, words)]
    data = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    parser = StreamParser(REF, expected=EXPECTED, tree="/copy")
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
