"""How a model endpoint can fail, each with its own name and its way out. Pure.

A failure is `retryable` only where another attempt can help.
"""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from msgspec import Struct

from server.addresses import host_of
from server.agents.meter import Fault
from server.agents.probe_calls import MEND_TOOLS, MEND_WINDOW
from server.ports import AgentFailure, ModelEndpoint

SAID_LIMIT = 300
RETRY_AFTER_LIMIT = 86_400.0

MEND_KEY = "set the endpoint's api_key, or OPENAI_API_KEY"
MEND_ADDRESS = "correct the endpoint's base_url (it ends with /v1 on most servers) or its model"
MEND_SERVER = "see the model server's own log"

_CONTEXT = re.compile(
    r"context|too many tokens|prompt is too long|input is too long|maximum.{0,20}tokens", re.I
)
_TOOLS = re.compile(r"\btools?\b|tool[_ -]choice|function[_ -]call|--jinja", re.I)
_ROLES = re.compile(r"\brole\b|tool_call_id", re.I)
"""Words of a complaint about one message, not about tools as such."""

_FAULTS = {
    "stream_malformed": ("sent a broken answer", MEND_SERVER, True),
    "stream_cut": ("cut its answer off", MEND_SERVER, True),
    "endpoint_error": ("failed in the middle of an answer", MEND_SERVER, True),
    "empty_answer": ("gave an empty answer", "try again, or choose another model", True),
    "answer_too_long": ("does not stop", "choose a server that honours max_tokens", False),
    "answer_cut": (
        "cut its answer at the token limit",
        "review fewer files, or allow longer answers (answer_tokens)",
        False,
    ),
    "context_cut": ("read only a part of the prompt", MEND_WINDOW, False),
}


class Answered(Struct, frozen=True, kw_only=True):
    """An HTTP answer that is no stream."""

    status: int
    said: str
    """What stands in its body, as far as it was read."""
    location: str = ""
    retry_after: float | None = None


def by_fault(fault: Fault, endpoint: ModelEndpoint) -> AgentFailure:
    """The failure for something wrong with an answer."""
    did, way_out, retryable = _FAULTS[fault.reason]
    if fault.reason == "endpoint_error" and _CONTEXT.search(fault.seen):
        return _context(fault.seen, endpoint)
    return AgentFailure(
        reason=fault.reason,
        message=f"{host_of(endpoint.base_url)} {did}: {_shown(fault.seen, endpoint)} ({way_out})",
        retryable=retryable,
    )


def by_answer(answer: Answered, endpoint: ModelEndpoint) -> AgentFailure:
    """The failure for an HTTP status, and for what was said with it."""
    host, status, said = host_of(endpoint.base_url), answer.status, answer.said
    if status in (401, 403):
        # What it said is left out: servers repeat the key there.
        message = f"{host} refuses the key with HTTP {status} ({MEND_KEY})"
        return AgentFailure(reason="endpoint_refused_key", message=message)
    if 300 <= status < 400:
        return _redirect(answer, endpoint)
    if status in (400, 413, 422, 500) and _CONTEXT.search(said):
        return _context(said, endpoint)
    if status in (400, 422, 500, 501) and _TOOLS.search(said) and not _ROLES.search(said):
        message = f"{host} takes no tool calls: {_shown(said, endpoint)} ({MEND_TOOLS})"
        return AgentFailure(reason="no_tool_calls", message=message)
    reason, way_out, retryable = _by_status(status, said)
    return AgentFailure(
        reason=reason,
        message=f"{host} answers HTTP {status}: {_shown(said, endpoint)} ({way_out})",
        retryable=retryable,
        retry_after=answer.retry_after if retryable else None,
    )


def _by_status(status: int, said: str) -> tuple[str, str, bool]:
    if status == 404:
        return "endpoint_not_found", MEND_ADDRESS, False
    if status == 429:
        # An account without credit answers like a busy one; waiting does not fill it.
        spent = "insufficient_quota" in said or "billing" in said.lower()
        way_out = "add credit to the account" if spent else "use fewer agents at once, or wait"
        return "rate_limited", way_out, not spent
    if status >= 500 or status == 408:
        return "endpoint_overloaded", MEND_SERVER, True
    return "api_error", MEND_SERVER, status in (409, 425)


def _context(said: str, endpoint: ModelEndpoint) -> AgentFailure:
    host = host_of(endpoint.base_url)
    way_out = f"{MEND_WINDOW}; or review fewer files"
    message = f"the prompt does not fit the model at {host}: {_shown(said, endpoint)} ({way_out})"
    return AgentFailure(reason="context_exceeded", message=message)


def _redirect(answer: Answered, endpoint: ModelEndpoint) -> AgentFailure:
    try:
        target = urlsplit(answer.location).hostname
    except ValueError:
        target = None
    where = _shown(target or "another address", endpoint)
    message = (
        f"{host_of(endpoint.base_url)} sends on to {where}; podium does not follow, because the"
        " prompt would go there (set base_url to it if that is what you want)"
    )
    return AgentFailure(reason="endpoint_redirects", message=message)


def unreachable(why: str, endpoint: ModelEndpoint, *, retryable: bool) -> AgentFailure:
    """No HTTP answer at all; `why` continues a sentence that begins with the host."""
    message = f"{host_of(endpoint.base_url)} {_shown(why, endpoint)}"
    return AgentFailure(reason="endpoint_unreachable", message=message, retryable=retryable)


def no_chat(seen: str, endpoint: ModelEndpoint) -> AgentFailure:
    """What answers there is no streaming chat endpoint at all: asking again cannot help."""
    host = host_of(endpoint.base_url)
    message = f"what answers at {host} is no chat model: {seen} ({MEND_ADDRESS})"
    return AgentFailure(reason="stream_malformed", message=message)


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


def _shown(text: str, endpoint: ModelEndpoint) -> str:
    """Foreign text for a person: one line, no control characters, never the key."""
    if endpoint.api_key:
        text = text.replace(endpoint.api_key, "[key]")
    plain = "".join(sign if sign.isprintable() else " " for sign in text[: 4 * SAID_LIMIT])
    return " ".join(plain.split())[:SAID_LIMIT] or "nothing"
