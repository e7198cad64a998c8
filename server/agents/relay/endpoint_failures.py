"""How a model endpoint can fail, each with its own name. Pure.

Whether another attempt can help, and the way out, stand in `reasons.KINDS`.
"""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from msgspec import Struct

from server.addresses import host_of
from server.agents.reasons import FailureReason, failure
from server.agents.relay.meter import Flaw
from server.ports import AgentFailure, ModelEndpoint

MEND_WINDOW = (
    "give the server a larger context: `OLLAMA_CONTEXT_LENGTH=32768 ollama serve`, or"
    " `llama-server -c 32768`"
)
MEND_TOOLS = (
    "start the server with tool calls: vLLM `--enable-auto-tool-choice --tool-call-parser hermes`,"
    " llama.cpp `--jinja`; or choose a model that can call tools"
)
SAID_LIMIT = 300
RETRY_AFTER_LIMIT = 86_400.0

_REASON = FailureReason
CONTEXT = re.compile(
    r"context|too many tokens|prompt is too long|input is too long|maximum.{0,20}tokens", re.I
)
TOOLS = re.compile(r"\btools?\b|tool[_ -]choice|function[_ -]call|--jinja", re.I)
_ROLES = re.compile(r"\brole\b|tool_call_id", re.I)
"""Words of a complaint about one message, not about tools as such."""

_PASSING = frozenset({408, 409, 425})
"""Refusals that the next request may not meet."""

_DID = {
    _REASON.STREAM_MALFORMED: "sent a broken answer",
    _REASON.STREAM_CUT: "cut its answer off",
    _REASON.ENDPOINT_ERROR: "failed in the middle of an answer",
    _REASON.EMPTY_ANSWER: "gave an empty answer",
    _REASON.ANSWER_TOO_LONG: "does not stop",
    _REASON.EVENT_TOO_LARGE: "sent too much at once",
    _REASON.ANSWER_CUT: "cut its answer at the token limit",
    _REASON.CONTEXT_CUT: "read only a part of the prompt",
}
_HINTS = {_REASON.CONTEXT_CUT: MEND_WINDOW}
"""Ways out that are longer than the table's."""


class Answered(Struct, frozen=True, kw_only=True):
    """An HTTP answer that is no stream."""

    status: int
    said: str
    """What stands in its body, as far as it was read."""
    location: str = ""
    retry_after: float | None = None


def by_flaw(flaw: Flaw, endpoint: ModelEndpoint) -> AgentFailure:
    """The failure for something wrong with an answer."""
    reason, seen = flaw.reason, flaw.seen
    if reason is _REASON.ENDPOINT_ERROR and CONTEXT.search(seen):
        return _context(seen, endpoint)
    message = f"{host_of(endpoint.base_url)} {_DID[reason]}: {without_key(seen, endpoint)}"
    return failure(reason, message, hint=_HINTS.get(reason))


def by_answer(answer: Answered, endpoint: ModelEndpoint) -> AgentFailure:
    """The failure for an HTTP status, and for what was said with it."""
    host, status, said = host_of(endpoint.base_url), answer.status, answer.said
    match reason_of(status, said):
        case _REASON.ENDPOINT_REFUSED_KEY as reason:
            # What it said is left out: servers repeat the key there.
            return failure(reason, f"{host} refuses the key with HTTP {status}")
        case _REASON.ENDPOINT_REDIRECTS:
            return _redirect(answer, endpoint)
        case _REASON.CONTEXT_EXCEEDED:
            return _context(said, endpoint)
        case _REASON.NO_TOOL_CALLS as reason:
            message = f"{host} takes no tool calls: {without_key(said, endpoint)}"
            return failure(reason, message, hint=MEND_TOOLS)
        case reason:
            message = f"{host} answers HTTP {status}: {without_key(said, endpoint)}"
            return failure(reason, message, retry_after=answer.retry_after)


def reason_of(status: int, said: str) -> FailureReason:
    """The reason behind an HTTP status that is no success; what was said with it tells a prompt
    that is too long, and tools that are not taken, from other refusals."""
    if status in (401, 403):
        return _REASON.ENDPOINT_REFUSED_KEY
    if 300 <= status < 400:
        return _REASON.ENDPOINT_REDIRECTS
    if status in (400, 413, 422, 500) and CONTEXT.search(said):
        return _REASON.CONTEXT_EXCEEDED
    if status in (400, 422, 500, 501) and TOOLS.search(said) and not _ROLES.search(said):
        return _REASON.NO_TOOL_CALLS
    if status == 404:
        return _REASON.ENDPOINT_NOT_FOUND
    if status == 429:
        # An account without credit answers like a busy one; waiting does not fill it.
        spent = "insufficient_quota" in said or "billing" in said.lower()
        return _REASON.QUOTA_SPENT if spent else _REASON.RATE_LIMITED
    if status >= 500 or status in _PASSING:
        return _REASON.ENDPOINT_OVERLOADED
    return _REASON.API_ERROR


def _context(said: str, endpoint: ModelEndpoint) -> AgentFailure:
    message = (
        f"the prompt does not fit the model at {host_of(endpoint.base_url)}:"
        f" {without_key(said, endpoint)}"
    )
    hint = f"{MEND_WINDOW}; or review fewer files"
    return failure(_REASON.CONTEXT_EXCEEDED, message, hint=hint)


def _redirect(answer: Answered, endpoint: ModelEndpoint) -> AgentFailure:
    try:
        target = urlsplit(answer.location).hostname
    except ValueError:
        target = None
    where = without_key(target or "another address", endpoint)
    message = (
        f"{host_of(endpoint.base_url)} sends on to {where}; podium does not follow, because the"
        " prompt would go there"
    )
    return failure(_REASON.ENDPOINT_REDIRECTS, message)


def unreachable(reason: FailureReason, why: str, endpoint: ModelEndpoint) -> AgentFailure:
    """No HTTP answer at all; `why` continues a sentence that begins with the host."""
    return failure(reason, f"{host_of(endpoint.base_url)} {without_key(why, endpoint)}")


def no_chat(seen: str, endpoint: ModelEndpoint) -> AgentFailure:
    """What answers there is no streaming chat endpoint at all: asking again cannot help."""
    message = f"what answers at {host_of(endpoint.base_url)} is no chat model: {seen}"
    return failure(_REASON.ENDPOINT_NO_CHAT, message)


def retry_after(header: str | None, *, now: datetime) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date; None without a valid one.
    At most a day."""
    if header is None:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit():
        return min(float(header[:9]), RETRY_AFTER_LIMIT)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return min(max(seconds.total_seconds(), 0.0), RETRY_AFTER_LIMIT)


def without_key(text: str, endpoint: ModelEndpoint) -> str:
    """Foreign text for a person: one line, no control characters, never the key."""
    if endpoint.api_key:
        text = text.replace(endpoint.api_key, "[key]")
    plain = "".join(sign if sign.isprintable() else " " for sign in text[: 4 * SAID_LIMIT])
    return " ".join(plain.split())[:SAID_LIMIT] or "nothing"
