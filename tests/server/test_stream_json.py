"""The agent's output, from the lines that were measured, and the exact success rule."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.frames import Channel, FlowRunStepDelta, FlowRunStepTool, ToolStatus
from protocol.ids import RunId, StepId
from server.agents import stream_json
from server.agents.introduction import Expected
from server.agents.outcome import Delivered, outcome
from server.agents.stream_json import StreamParser
from server.ports import AgentFailure, AgentFrame, AttemptRef

REF = AttemptRef(RunId("r"), StepId("s"), 1)
EXPECTED = Expected(version="0.24.4", model="m")
INIT = {
    "type": "system", "subtype": "init", "qwen_code_version": "0.24.4", "permission_mode": "plan",
    "model": "m", "tools": ["read_file", "glob", "grep_search", "structured_output"],
    "mcp_servers": [],
}  # fmt: skip
RESULT = {
    "type": "result", "subtype": "success", "is_error": False, "result": "{}",
    "structured_result": {"a": 1}, "usage": {"input_tokens": 3}, "permission_denials": [],
}  # fmt: skip


def error(message: str) -> dict[str, Any]:
    return {
        "type": "result", "subtype": "error_during_execution", "is_error": True,
        "error": {"message": message},
    }  # fmt: skip


def text(words: str) -> dict[str, Any]:
    delta = {"type": "text_delta", "text": words}
    return {"type": "stream_event", "event": {"type": "content_block_delta", "delta": delta}}


def parsed(*events: object, tail: bytes = b"") -> tuple[StreamParser, list[AgentFrame]]:
    parser = StreamParser(REF, expected=EXPECTED, tree="/copy")
    lines = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    return parser, parser.feed(lines + tail)


@pytest.mark.parametrize("tail", [b"", b"\n"])
def test_a_line_has_a_bound_whether_it_ends_or_not(
    monkeypatch: pytest.MonkeyPatch, tail: bytes
) -> None:
    monkeypatch.setattr(stream_json, "MAX_LINE", 1_000)
    parser, _ = parsed(INIT, tail=b'"' + b"x" * 1_000 + b'"' + tail)
    assert parser.failure is not None
    assert parser.failure.reason == "output_limit"
    fitting, _ = parsed(INIT, tail=b'"' + b"x" * 998 + b'"' + tail)
    assert fitting.failure is None


def test_text_has_offsets_in_code_points() -> None:
    _, frames = parsed(INIT, text("naïve "), text("🙂"), text("end"))
    deltas = [frame for frame in frames if isinstance(frame, FlowRunStepDelta)]
    assert [(delta.offset, delta.text) for delta in deltas] == [
        (0, "naïve "),
        (6, "🙂"),
        (7, "end"),
    ]
    assert {delta.channel for delta in deltas} == {Channel.TEXT}


def test_a_tool_call_is_one_line_with_the_repositorys_paths() -> None:
    call = {"type": "tool_use", "id": "1", "name": "read_file", "input": {"path": "/copy/a/b.py"}}
    reply = {"type": "tool_result", "tool_use_id": "1", "is_error": False, "content": "text"}
    _, frames = parsed(
        INIT,
        {"type": "assistant", "message": {"content": [call]}},
        {"type": "user", "message": {"content": [reply]}},
    )
    tools = [frame for frame in frames if isinstance(frame, FlowRunStepTool)]
    assert [tool.status for tool in tools] == [ToolStatus.RUNNING, ToolStatus.OK]
    assert {tool.summary for tool in tools} == {"read_file a/b.py"}
    assert tools[1].result == "text"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"permission_mode": "yolo"}, "wrong_mode"),
        ({"model": "other"}, "wrong_model"),
        ({"tools": [*INIT["tools"], "write_file"]}, "unexpected_tools"),
        ({"tools": ["read_file", "write_file"]}, "unexpected_tools"),
        ({"tools": ["read_file", "glob", "structured_output"]}, "missing_tools"),
        ({"tools": []}, "missing_tools"),
        ({"tools": "read_file"}, "no_introduction"),
        ({"tools": [1]}, "no_introduction"),
        ({"mcp_servers": {}}, "no_introduction"),
        ({"mcp_servers": None}, "no_introduction"),
        ({"permission_mode": ["plan"]}, "no_introduction"),
        ({"qwen_code_version": "0.24.40"}, "wrong_version"),
        ({"mcp_servers": [{"name": "x", "status": "connected"}]}, "mcp_servers"),
    ],
)
def test_a_surprise_in_the_first_line_ends_the_attempt(change: dict[str, Any], reason: str) -> None:
    """In one chunk with all that follows: nothing of that is used."""
    parser, frames = parsed({**INIT, **change}, text("Hello"), RESULT)
    assert parser.failure is not None
    assert parser.failure.reason == reason
    assert not parser.failure.retryable
    assert outcome(parser, exit_code=0, stderr="") == parser.failure
    assert (frames, parser.text, parser.result) == ([], "", None)
    assert parser.feed(json.dumps(text("more")).encode() + b"\n") == []


@pytest.mark.parametrize("early", [
    text("Hello"),
    {"type": "assistant", "message": {"content": [
        {"type": "tool_use", "id": "1", "name": "read_file", "input": {}},
    ]}},
    {"type": "user", "message": {"content": []}},
    {"type": "system", "subtype": "retry", "data": {}},
    RESULT,
])  # fmt: skip
def test_who_speaks_before_the_introduction_is_stopped(early: dict[str, Any]) -> None:
    parser, frames = parsed(early, INIT, RESULT)
    assert frames == []
    came = outcome(parser, exit_code=0, stderr="")
    assert isinstance(came, AgentFailure)
    assert came.reason == "no_introduction"


def test_an_error_needs_no_introduction() -> None:
    parser, _ = parsed(error("No auth type is selected"))
    came = outcome(parser, exit_code=1, stderr="")
    assert isinstance(came, AgentFailure)
    assert came.reason == "agent_error"


@pytest.mark.parametrize("is_error", [True, False])
def test_a_tool_that_was_not_offered_must_not_run(*, is_error: bool) -> None:
    call = {"type": "tool_use", "id": "1", "name": "write_file", "input": {"path": "x"}}
    reply = {"type": "tool_result", "tool_use_id": "1", "is_error": is_error, "content": "done"}
    parser, _ = parsed(
        INIT,
        {"type": "assistant", "message": {"content": [call]}},
        {"type": "user", "message": {"content": [reply]}},
        RESULT,
    )
    came = outcome(parser, exit_code=0, stderr="")
    if is_error:
        assert came == Delivered({"a": 1})
    else:
        assert isinstance(came, AgentFailure)
        assert came.reason == "unexpected_tools"
        assert "write_file" in came.message


def test_success_is_success() -> None:
    parser, _ = parsed(INIT, RESULT)
    assert outcome(parser, exit_code=0, stderr="") == Delivered({"a": 1})


@pytest.mark.parametrize(
    ("events", "tail", "code", "reason", "retryable"),
    [
        ([INIT], b"", 53, "turns_exhausted", False),
        ([INIT], b"", 55, "budget_exhausted", False),
        ([INIT], b"", 130, "interrupted", False),
        ([INIT], b"", -9, "killed", True),
        ([], b"", 1, "usage_error", False),
        ([INIT], b"", 1, "agent_error", False),
        ([INIT], b"", 7, "agent_error", False),
        ([INIT], b"", 255, "agent_error", False),
        ([], b"", 0, "no_introduction", False),
        ([], b"Hello, I am not JSON.\n", 0, "no_introduction", False),
        ([INIT], b"", 0, "no_result", True),
        ([INIT], b'{"type": "res', 0, "cut_output", True),
        ([INIT], b"", -11, "crashed", True),
        ([INIT], b"", -6, "crashed", True),
        ([INIT], b"", 139, "crashed", True),
        ([INIT], b"", 137, "killed", True),
        ([INIT], b"", -15, "interrupted", False),
        ([INIT], b"", 143, "interrupted", False),
        ([INIT], b"", -24, "cpu_limit", False),
        ([INIT], b"", 153, "output_limit", False),
        ([INIT, RESULT, text("more")], b"", 0, "garbled_output", True),
        ([INIT, RESULT, {"type": "new"}], b"", 0, "garbled_output", True),
        ([INIT, RESULT], b"bye\n", 0, "garbled_output", True),
        ([INIT, RESULT], b"\0\0\0\n", 0, "garbled_output", True),
        ([INIT], b'{"type": "assist\xff"}\n', 0, "garbled_output", True),
        ([INIT, RESULT], b'{"type": "res', 0, "cut_output", True),
        ([INIT, {**RESULT, "structured_result": None}], b"", 0, "plain_text", False),
        ([INIT, {**RESULT, "structured_result": {}}], b"", 0, "empty_result", False),
        ([INIT, {**RESULT, "result": "[API Error: 500 x]"}], b"", 0, "endpoint_overloaded", True),
        ([INIT, error("[API Error: 401 bad key]")], b"", 1, "endpoint_refused_key", False),
        ([INIT, error("[API Error: 404 none]")], b"", 1, "endpoint_not_found", False),
        ([INIT, error("[API Error: 429 slow down]")], b"", 1, "rate_limited", True),
        ([INIT, error("[API Error: 400 exceeds the context]")], b"", 1, "context_exceeded", False),
        ([INIT, error("Model produced plain text instead of")], b"", 1, "plain_text", False),
        ([INIT, error("Loop detection halted the run")], b"", 1, "loop", False),
        ([INIT, error("something else")], b"", 1, "agent_error", False),
    ],
)
def test_everything_else_fails_with_its_own_reason(
    events: list[Any], tail: bytes, code: int, reason: str, *, retryable: bool
) -> None:
    parser, _ = parsed(*events, tail=tail)
    failure = outcome(parser, exit_code=code, stderr="usage: …")
    assert isinstance(failure, AgentFailure)
    assert (failure.reason, failure.retryable) == (reason, retryable)


@given(st.lists(st.binary(max_size=80), max_size=20))
def test_arbitrary_bytes_never_raise(chunks: list[bytes]) -> None:
    parser = StreamParser(REF, expected=EXPECTED, tree="/copy")
    for chunk in chunks:
        parser.feed(chunk)
    outcome(parser, exit_code=0, stderr="")


@given(st.text(max_size=200), st.integers(1, 40))
def test_any_cut_of_the_bytes_gives_the_same_text(words: str, size: int) -> None:
    data = b"".join(json.dumps(event).encode() + b"\n" for event in (INIT, text(words), RESULT))
    parser = StreamParser(REF, expected=EXPECTED, tree="/copy")
    frames = [
        frame for start in range(0, len(data), size) for frame in parser.feed(data[start:][:size])
    ]
    told = "".join(frame.text for frame in frames if isinstance(frame, FlowRunStepDelta))
    assert told == words
    assert isinstance(outcome(parser, exit_code=0, stderr=""), Delivered)
