"""The exact success rule of an attempt. Anything that is not plainly a success is a failure."""

import json
import re
from typing import Any, NamedTuple

from server.agents.invocation import MODE, RESULT_TOOL
from server.agents.stream_json import StreamParser
from server.ports import AgentFailure

API_ERROR = "[API Error"
# Only where the status stands: a port, or a number of bytes, may look like one.
_STATUS = re.compile(r"\[API Error:?\s*(?:HTTP\s*)?([45]\d\d)\b")
_ENDS_IN_ERROR = re.compile(r"\[API Error[^\n]*\]\s*$")

EXIT_REASONS = {
    53: ("turns_exhausted", "the agent used all its turns without delivering a result"),
    55: ("budget_exhausted", "the agent used all its tool calls or time without a result"),
    130: ("interrupted", "the agent was interrupted from outside"),
}
RETRYABLE_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class Delivered(NamedTuple):
    raw: Any


def outcome(parser: StreamParser, *, exit_code: int, stderr: str) -> Delivered | AgentFailure:
    """What the attempt came to, from its whole output and its exit code."""
    if parser.failure is not None:
        return parser.failure
    result = parser.result
    if result is not None and (result.get("is_error") or result.get("subtype") != "success"):
        return _error_result(result)
    if exit_code in EXIT_REASONS:
        reason, message = EXIT_REASONS[exit_code]
        return AgentFailure(reason=reason, message=message)
    if exit_code < 0:
        return AgentFailure(
            reason="killed",
            message=f"the agent was killed by signal {-exit_code} (out of memory?)",
            retryable=True,
        )
    if exit_code:
        return AgentFailure(
            reason="usage_error",
            message=f"the agent ended with code {exit_code}: {_last_line(stderr)}",
        )
    if parser.init is None or parser.init.mode != MODE:
        return AgentFailure(reason="no_result", message="the agent never introduced itself")
    if result is None or parser.cut:
        return AgentFailure(
            reason="cut_output", message="the agent's output ends without a result", retryable=True
        )
    return _result(result, parser)


def _result(result: dict[str, Any], parser: StreamParser) -> Delivered | AgentFailure:
    text = str(result.get("result") or "")
    raw = result.get("structured_result")
    if text.startswith(API_ERROR) or (raw is None and _ENDS_IN_ERROR.search(text)):
        return _api_error(text[text.rfind(API_ERROR) :])
    if raw is None:
        return AgentFailure(
            reason="plain_text",
            message=f"the agent answered in plain text instead of calling {RESULT_TOOL}",
            repairable=True,
        )
    if raw in ({}, []):
        return AgentFailure(reason="empty_result", message="the result is empty", repairable=True)
    if parser.broken_lines:
        return AgentFailure(
            reason="cut_output",
            message=f"{parser.broken_lines} lines of the agent's output are broken",
            retryable=True,
        )
    return Delivered(raw)


def _error_result(result: dict[str, Any]) -> AgentFailure:
    error = result.get("error")
    message = str(error.get("message") if isinstance(error, dict) else error or "no message")
    if API_ERROR in message:
        return _api_error(message)
    if "plain text" in message or RESULT_TOOL in message:
        return AgentFailure(reason="plain_text", message=message, repairable=True)
    if "oop detect" in message:
        return AgentFailure(
            reason="loop", message=f"the agent repeated itself: {message[:300]}", repairable=True
        )
    return AgentFailure(reason="agent_error", message=message[:600])


def _api_error(text: str) -> AgentFailure:
    """The endpoint's refusal, by its HTTP status where the text has one."""
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    message = f"the model endpoint failed: {_readable(text)}"
    if status in (401, 403):
        hint = "check OPENAI_API_KEY or the settings file"
        return AgentFailure(reason="endpoint_refused_key", message=f"{message} ({hint})")
    if status == 404:
        return AgentFailure(reason="endpoint_not_found", message=message)
    if "context" in text.lower() and status in (0, 400, 413):
        hint = "give the model a larger context, or review fewer files"
        return AgentFailure(reason="context_exceeded", message=f"{message} ({hint})")
    retryable = status in RETRYABLE_STATUS or status == 0
    return AgentFailure(reason="api_error", message=message, retryable=retryable)


def _readable(text: str) -> str:
    return " ".join(text.replace(API_ERROR, "").strip("[]: ").split())[:400]


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return json.dumps(lines[-1][:300]) if lines else "it said nothing"
