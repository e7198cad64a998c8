"""What the CLI says of a refused or broken model call, as its reason.

The relay sees nearly every such call itself, knows better, and ends the attempt before the CLI can
speak of it. This is what is left where only the text is there: what the relay refused in its own
name, and whatever a later CLI makes of an answer that was whole. The texts are those of qwen-code
0.24.4 and of the common model servers.
"""

import re

from server.agents.reasons import FailureReason, failure
from server.agents.relay.endpoint_failures import CONTEXT, TOOLS, reason_of
from server.ports import AgentFailure

API_ERROR = "[API Error"
MAX_SHOWN = 400
TOO_LARGE = 413

# Only where the status stands: a port, or a number of bytes, may look like one.
_STATUS = re.compile(r"\[API Error:?\s*(?:HTTP\s*)?([345]\d\d)\b|\bHTTP ([345]\d\d)\)")
_ENDS_IN_ERROR = re.compile(r"\[API Error[^\n]*\]\s*$")

_WITHOUT_STATUS = (
    (CONTEXT, FailureReason.CONTEXT_EXCEEDED),
    (TOOLS, FailureReason.NO_TOOL_CALLS),
    (re.compile(r"empty response", re.I), FailureReason.EMPTY_ANSWER),
    (re.compile(r"finish reason|\bterminated|socket|aborted|ECONNRESET|premature", re.I),
     FailureReason.STREAM_CUT),
    (re.compile(r"JSON|Unexpected token", re.I), FailureReason.STREAM_MALFORMED),
    (re.compile(r"Connection error|ECONNREFUSED|ENOTFOUND|fetch failed|timed? ?out", re.I),
     FailureReason.ENDPOINT_UNREACHABLE),
)  # fmt: skip
"""What the CLI says of a call that broke off, or came to no answer at all."""


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
    if found := _STATUS.search(text):
        status = int(found[1] or found[2])
        # It says this of its own prompt, in words that do not name the context.
        return FailureReason.CONTEXT_EXCEEDED if status == TOO_LARGE else reason_of(status, text)
    known = (reason for pattern, reason in _WITHOUT_STATUS if pattern.search(text))
    return next(known, FailureReason.ENDPOINT_ERROR)
