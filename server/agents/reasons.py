"""Every way an attempt can fail: its stable name, whether another attempt can help, the way out.

`docs/failures.md` is the same table for people; a test holds the two together.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from server.ports import AgentFailure


class FailureReason(StrEnum):
    """Stable names: they stand in frames, in the store and in what clients compare with."""

    # the process
    SPAWN_FAILED = "spawn_failed"
    USAGE_ERROR = "usage_error"
    KILLED = "killed"
    CRASHED = "crashed"
    MEMORY_LIMIT = "memory_limit"
    PROCESS_LIMIT = "process_limit"
    CPU_LIMIT = "cpu_limit"
    INTERRUPTED = "interrupted"
    # its first line
    NO_INTRODUCTION = "no_introduction"
    WRONG_VERSION = "wrong_version"
    WRONG_MODE = "wrong_mode"
    WRONG_MODEL = "wrong_model"
    MCP_SERVERS = "mcp_servers"
    UNEXPECTED_TOOLS = "unexpected_tools"
    MISSING_TOOLS = "missing_tools"
    # its output and its end
    CUT_OUTPUT = "cut_output"
    GARBLED_OUTPUT = "garbled_output"
    OUTPUT_LIMIT = "output_limit"
    NO_RESULT = "no_result"
    TURNS_EXHAUSTED = "turns_exhausted"
    BUDGET_EXHAUSTED = "budget_exhausted"
    AGENT_ERROR = "agent_error"
    # its answer
    PLAIN_TEXT = "plain_text"
    EMPTY_RESULT = "empty_result"
    SCHEMA_NEVER_MET = "schema_never_met"
    LOOP = "loop"
    # podium's clocks
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    # the endpoint
    ENDPOINT_UNREACHABLE = "endpoint_unreachable"
    ENDPOINT_UNTRUSTED = "endpoint_untrusted"
    BAD_ADDRESS = "bad_address"
    ENDPOINT_NO_CHAT = "endpoint_no_chat"
    ENDPOINT_REFUSED_KEY = "endpoint_refused_key"
    ENDPOINT_NOT_FOUND = "endpoint_not_found"
    ENDPOINT_REDIRECTS = "endpoint_redirects"
    ENDPOINT_OVERLOADED = "endpoint_overloaded"
    ENDPOINT_ERROR = "endpoint_error"
    RATE_LIMITED = "rate_limited"
    QUOTA_SPENT = "quota_spent"
    API_ERROR = "api_error"
    NO_TOOL_CALLS = "no_tool_calls"
    CONTEXT_EXCEEDED = "context_exceeded"
    CONTEXT_CUT = "context_cut"
    STREAM_MALFORMED = "stream_malformed"
    STREAM_CUT = "stream_cut"
    EMPTY_ANSWER = "empty_answer"
    ANSWER_CUT = "answer_cut"
    ANSWER_TOO_LONG = "answer_too_long"
    EVENT_TOO_LARGE = "event_too_large"
    # the relay and the proof
    UNEXPECTED_REQUEST = "unexpected_request"
    REQUEST_TOO_LARGE = "request_too_large"
    RELAY_ERROR = "relay_error"
    SELF_TEST_MISSING = "self_test_missing"
    READ_ONLY_UNPROVEN = "read_only_unproven"


class Again(StrEnum):
    """What another attempt is good for."""

    NO = "no"
    RETRY = "retry"
    """The cause was infrastructure: the same attempt may succeed."""
    REPAIR = "repair"
    """There was an answer, only not a valid one: the agent is shown it and may correct it."""


class Kind(NamedTuple):
    again: Again
    hint: str
    """The way out, as the end of a sentence."""


_REASON = FailureReason
_ADDRESS = "correct `base_url` (it ends with /v1) or `model`"
_REINSTALL = "run `podium setup`, which installs the tested qwen"
_CONTEXT = "give the model a larger context, or review fewer files"
_MEMORY = "give the machine more memory, or run fewer agents at once (`slots`)"
_ENDPOINT_LOG = "see the log of the model server"
_ANSWER = "choose a model that keeps to a given form"

KINDS: Mapping[FailureReason, Kind] = {
    _REASON.SPAWN_FAILED: Kind(Again.RETRY, "run `podium doctor`"),
    _REASON.USAGE_ERROR: Kind(Again.NO, _REINSTALL),
    _REASON.KILLED: Kind(Again.RETRY, _MEMORY),
    _REASON.CRASHED: Kind(Again.RETRY, _REINSTALL),
    _REASON.MEMORY_LIMIT: Kind(Again.NO, "raise `agent_memory_mib`, or review fewer files"),
    _REASON.PROCESS_LIMIT: Kind(Again.NO, "raise `agent_processes`"),
    _REASON.CPU_LIMIT: Kind(Again.NO, "raise `agent_cpu_seconds`, or review fewer files"),
    _REASON.INTERRUPTED: Kind(Again.NO, "run it again"),
    _REASON.NO_INTRODUCTION: Kind(Again.NO, _REINSTALL),
    _REASON.WRONG_VERSION: Kind(Again.NO, _REINSTALL),
    _REASON.WRONG_MODE: Kind(Again.NO, _REINSTALL),
    _REASON.WRONG_MODEL: Kind(Again.NO, "name a model that the endpoint has"),
    _REASON.MCP_SERVERS: Kind(Again.NO, _REINSTALL),
    _REASON.UNEXPECTED_TOOLS: Kind(Again.NO, _REINSTALL),
    _REASON.MISSING_TOOLS: Kind(Again.NO, _REINSTALL),
    _REASON.CUT_OUTPUT: Kind(Again.RETRY, "make room on the disk of the data folder"),
    _REASON.GARBLED_OUTPUT: Kind(Again.RETRY, "keep the attempt's files with `keep_attempts`"),
    _REASON.OUTPUT_LIMIT: Kind(Again.NO, "choose another model, or review fewer files"),
    _REASON.NO_RESULT: Kind(Again.RETRY, "keep the attempt's files with `keep_attempts`"),
    _REASON.TURNS_EXHAUSTED: Kind(Again.NO, "choose a larger band, or review fewer files"),
    _REASON.BUDGET_EXHAUSTED: Kind(Again.NO, "choose a larger band, or review fewer files"),
    _REASON.AGENT_ERROR: Kind(Again.NO, "keep the attempt's files with `keep_attempts`"),
    _REASON.PLAIN_TEXT: Kind(Again.REPAIR, "choose a model that calls tools"),
    _REASON.EMPTY_RESULT: Kind(Again.REPAIR, _ANSWER),
    _REASON.SCHEMA_NEVER_MET: Kind(Again.REPAIR, _ANSWER),
    _REASON.LOOP: Kind(Again.REPAIR, "choose a larger model, or ask for less at once"),
    _REASON.FIRST_BYTE_TIMEOUT: Kind(Again.RETRY, "raise `first_byte_seconds`"),
    _REASON.IDLE_TIMEOUT: Kind(Again.RETRY, "raise `idle_seconds`"),
    _REASON.TOTAL_TIMEOUT: Kind(Again.NO, "choose a larger band, or review fewer files"),
    _REASON.ENDPOINT_UNREACHABLE: Kind(Again.RETRY, "start the model server, or correct its URL"),
    _REASON.ENDPOINT_UNTRUSTED: Kind(
        Again.NO,
        "use the name its certificate is for, or trust its authority (SSL_CERT_FILE);"
        " http:// where there is no TLS",
    ),
    _REASON.BAD_ADDRESS: Kind(Again.NO, "correct `base_url`"),
    _REASON.ENDPOINT_NO_CHAT: Kind(Again.NO, _ADDRESS),
    _REASON.ENDPOINT_REFUSED_KEY: Kind(Again.NO, "set the endpoint's `api_key`"),
    _REASON.ENDPOINT_NOT_FOUND: Kind(Again.NO, _ADDRESS),
    _REASON.ENDPOINT_REDIRECTS: Kind(Again.NO, "set `base_url` to where it redirects to"),
    _REASON.ENDPOINT_OVERLOADED: Kind(Again.RETRY, "run fewer agents at once (`slots`)"),
    _REASON.ENDPOINT_ERROR: Kind(Again.RETRY, _ENDPOINT_LOG),
    _REASON.RATE_LIMITED: Kind(Again.RETRY, "run fewer agents at once (`slots`)"),
    _REASON.QUOTA_SPENT: Kind(Again.NO, "add credit to the account"),
    _REASON.API_ERROR: Kind(Again.NO, _ENDPOINT_LOG),
    _REASON.NO_TOOL_CALLS: Kind(Again.NO, "start the model server with tool calls"),
    _REASON.CONTEXT_EXCEEDED: Kind(Again.NO, _CONTEXT),
    _REASON.CONTEXT_CUT: Kind(Again.NO, _CONTEXT),
    _REASON.STREAM_MALFORMED: Kind(Again.RETRY, _ENDPOINT_LOG),
    _REASON.STREAM_CUT: Kind(Again.RETRY, _ENDPOINT_LOG),
    _REASON.EMPTY_ANSWER: Kind(Again.RETRY, "choose another model"),
    _REASON.ANSWER_CUT: Kind(Again.NO, "choose a larger band, or a model that says less"),
    _REASON.ANSWER_TOO_LONG: Kind(Again.NO, "choose another model"),
    _REASON.EVENT_TOO_LARGE: Kind(Again.NO, "choose another model server"),
    _REASON.SELF_TEST_MISSING: Kind(Again.RETRY, "run `podium doctor`"),
    _REASON.UNEXPECTED_REQUEST: Kind(Again.NO, _REINSTALL),
    _REASON.REQUEST_TOO_LARGE: Kind(Again.NO, "review fewer files"),
    _REASON.RELAY_ERROR: Kind(Again.RETRY, "see podium's log, and report it"),
    _REASON.READ_ONLY_UNPROVEN: Kind(Again.NO, "see what writes below the data folder"),
}


def failure(
    reason: FailureReason,
    message: str,
    *,
    hint: str | None = None,
    retry_after: float | None = None,
) -> AgentFailure:
    """The failure with its way out, repeated only where that can help.

    `hint`: a way out that knows more of the case than the table does. `retry_after` is kept only
    where there is another attempt.
    """
    kind = KINDS[reason]
    again = kind.again is Again.RETRY
    return AgentFailure(
        reason=reason.value,
        message=f"{message} ({hint or kind.hint})",
        retryable=again,
        repairable=kind.again is Again.REPAIR,
        retry_after=retry_after if again else None,
    )
