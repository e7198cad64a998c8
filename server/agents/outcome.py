"""The exact success rule of an attempt. Anything that is not plainly a success is a failure."""

import json
import signal
from typing import Any, NamedTuple

from server.agents.api_errors import API_ERROR, error_in, failure_of
from server.agents.containment.limits import ran_out_of_memory
from server.agents.invocation import RESULT_TOOL
from server.agents.reasons import FailureReason, failure
from server.agents.stream_json import StreamParser
from server.ports import AgentFailure

NO_TURN_LEFT, NO_BUDGET_LEFT = 53, 55
"""Exit codes of the CLI without a result line (measured); 128 and more is a signal."""
OUTSIDE = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
MAX_SHOWN = 300


class Delivered(NamedTuple):
    raw: Any


def outcome(parser: StreamParser, *, exit_code: int, stderr: str) -> Delivered | AgentFailure:
    """What the attempt came to, from its whole output and its exit code.

    A success has code 0, an introduction as expected, nothing broken or cut, and a successful
    result as its last line, with an object in it. Whether that object is what the step's schema
    wants is judged where the step is known; here an answer that is nothing is none.
    """
    if parser.failure is not None:
        return parser.failure
    result = parser.result
    if result is not None and (result.get("is_error") or result.get("subtype") != "success"):
        return _error_result(result, parser)
    if exit_code:
        return _exit(exit_code, parser, stderr)
    if parser.init is None:
        return failure(FailureReason.NO_INTRODUCTION, "the agent never said what it is")
    return _broken_output(parser) or _result(result or {}, parser)


def _exit(code: int, parser: StreamParser, stderr: str) -> AgentFailure:
    by = _signal(code)
    if by is not None:
        return _by_signal(by, stderr)
    if code in (NO_TURN_LEFT, NO_BUDGET_LEFT) and parser.refusal:
        return _schema_never_met(parser)
    if code == NO_TURN_LEFT:
        message = "the agent used all its turns without delivering a result"
        return failure(FailureReason.TURNS_EXHAUSTED, message)
    if code == NO_BUDGET_LEFT:
        message = "the agent used all its tool calls or time without a result"
        return failure(FailureReason.BUDGET_EXHAUSTED, message)
    said = f"the agent ended with code {code}: {_complaint(stderr)}"
    # Before its first line it reads its flags; a complaint is about those.
    began = parser.init is not None
    return failure(FailureReason.AGENT_ERROR if began else FailureReason.USAGE_ERROR, said)


def _signal(code: int) -> signal.Signals | None:
    """The signal that ended the agent: negative as the system tells it, from 128 on as a process
    between us tells it."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def _by_signal(by: signal.Signals, stderr: str) -> AgentFailure:
    if by in OUTSIDE:
        message = f"the agent was ended from outside, by {by.name}"
        return failure(FailureReason.INTERRUPTED, message)
    if by is signal.SIGXCPU:
        return failure(FailureReason.CPU_LIMIT, "the agent used all its processor time")
    if by is signal.SIGXFSZ:
        return failure(FailureReason.OUTPUT_LIMIT, "the agent wrote too large a file")
    if by is signal.SIGKILL:
        message = "the agent was killed, most likely by the kernel because memory ran out"
        return failure(FailureReason.KILLED, message)
    if ran_out_of_memory(stderr):
        return failure(FailureReason.MEMORY_LIMIT, "the agent's memory is full")
    return failure(FailureReason.CRASHED, f"the agent crashed with {by.name}")


def _broken_output(parser: StreamParser) -> AgentFailure | None:
    """What is wrong with the output as a whole; None when nothing is."""
    if parser.cut:
        return failure(FailureReason.CUT_OUTPUT, "the last line of the agent's output has no end")
    if parser.broken_lines:
        lines = parser.broken_lines
        message = f"{lines} line{'s' * (lines > 1)} of the agent's output cannot be read"
        return failure(FailureReason.GARBLED_OUTPUT, message)
    if parser.result is None:
        return failure(FailureReason.NO_RESULT, "the agent's output ends without a result")
    if not parser.result_is_last:
        return failure(FailureReason.GARBLED_OUTPUT, "the agent went on after its result")
    return None


def _result(result: dict[str, Any], parser: StreamParser) -> Delivered | AgentFailure:
    text = str(result.get("result") or "")
    raw = result.get("structured_result")
    refused = error_in(text, alone=raw is not None)
    if refused is not None:
        return failure_of(refused)
    if raw is None:
        message = f"the agent answered in plain text instead of calling {RESULT_TOOL}"
        return failure(FailureReason.PLAIN_TEXT, message)
    if not isinstance(raw, dict) or not raw:
        return failure(FailureReason.EMPTY_RESULT, "the result is no object, or one without fields")
    if parser.refusal:
        return _schema_never_met(parser)
    return Delivered(raw)


def _error_result(result: dict[str, Any], parser: StreamParser) -> AgentFailure:
    error = result.get("error")
    message = str(error.get("message") if isinstance(error, dict) else error or "no message")
    if API_ERROR in message:
        return failure_of(message)
    if "oop detect" in message:
        if parser.refusal:
            return _schema_never_met(parser)
        return failure(FailureReason.LOOP, f"the agent repeated itself: {message[:MAX_SHOWN]}")
    if "plain text" in message or RESULT_TOOL in message:
        return failure(FailureReason.PLAIN_TEXT, message[:MAX_SHOWN])
    return failure(FailureReason.AGENT_ERROR, f"the agent failed: {message[:MAX_SHOWN]}")


def _schema_never_met(parser: StreamParser) -> AgentFailure:
    message = f"no answer met the schema; the last one: {parser.refusal[:MAX_SHOWN]}"
    return failure(FailureReason.SCHEMA_NEVER_MET, message)


def _complaint(stderr: str) -> str:
    """The last line of stderr that speaks of an error, else its last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    chosen = [line for line in lines if "error" in line.lower()] or lines
    return json.dumps(chosen[-1][:MAX_SHOWN]) if chosen else "it said nothing"
