"""What the CLI says of a refused or broken model call, as its reason.

The relay sees the call itself and knows better; this is what is left where only the text is there.
The texts are those of qwen-code 0.24.4 and of the common model servers.
"""

import re

from server.agents.reasons import FailureReason, failure
from server.ports import AgentFailure

API_ERROR = "[API Error"
MAX_SHOWN = 400

# Only where the status stands: a port, or a number of bytes, may look like one.
_STATUS = re.compile(r"\[API Error:?\s*(?:HTTP\s*)?([345]\d\d)\b|\bHTTP ([345]\d\d)\)")
_ENDS_IN_ERROR = re.compile(r"\[API Error[^\n]*\]\s*$")

_BY_STATUS = {
    401: FailureReason.ENDPOINT_REFUSED_KEY,
    403: FailureReason.ENDPOINT_REFUSED_KEY,
    404: FailureReason.ENDPOINT_NOT_FOUND,
    413: FailureReason.CONTEXT_EXCEEDED,
    429: FailureReason.RATE_LIMITED,
}
_PASSING = frozenset({408, 409, 425})
"""Refusals that the next request may not meet."""

_REFUSALS = (
    (re.compile(r"context", re.I), FailureReason.CONTEXT_EXCEEDED),
    (re.compile(r"tool choice|support tools|tools? (?:is|are) not support", re.I),
     FailureReason.NO_TOOL_CALLS),
)  # fmt: skip
"""What stands in the text of a 400, and of an error in the middle of a stream."""

_BREAKS = (
    (re.compile(r"empty response", re.I), FailureReason.EMPTY_ANSWER),
    (re.compile(r"finish reason|\bterminated|socket|aborted|ECONNRESET|premature", re.I),
     FailureReason.STREAM_CUT),
    (re.compile(r"JSON|Unexpected token", re.I), FailureReason.STREAM_MALFORMED),
    (re.compile(r"Connection error|ECONNREFUSED|ENOTFOUND|fetch failed|timed? ?out", re.I),
     FailureReason.ENDPOINT_UNREACHABLE),
)  # fmt: skip
"""What the CLI says of a call that came to no answer, where there is no status."""


def error_in(text: str, *, alone: bool) -> str | None:
    """The API error that an answer is, or (unless `alone`) ends in; None when there is none.

    Older versions report such an answer as a success.
    """
    if text.startswith(API_ERROR) or (not alone and _ENDS_IN_ERROR.search(text)):
        return text[text.rfind(API_ERROR) :]
    return None


def failure_of(text: str) -> AgentFailure:
    """The endpoint's refusal, by its HTTP status where the text has one, else by its words."""
    shown = " ".join(text.replace(API_ERROR, "").strip("[]: \n").split())[:MAX_SHOWN]
    return failure(_reason(text), f"the model endpoint failed: {shown}")


def _reason(text: str) -> FailureReason:
    found = _STATUS.search(text)
    status = int(found[1] or found[2]) if found else 0
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 300 <= status < 400:
        return FailureReason.ENDPOINT_REDIRECTS
    if status >= 500 or status in _PASSING:
        return FailureReason.ENDPOINT_OVERLOADED
    for pattern, reason in (*_REFUSALS, *_BREAKS) if not status else _REFUSALS:
        if status in (0, 400) and pattern.search(text):
            return reason
    return FailureReason.API_ERROR if status else FailureReason.ENDPOINT_ERROR
