"""What an agent may ask of the model, and how long the relay is patient. Pure.

A request is refused unless each part of it is known. Endpoints differ in what they read (some take
any spelling of a key, some the first and some the last of two equal keys, some fetch addresses that
stand in a message), so what is not known here could mean something there.
"""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from flows.planner import BYTES_PER_TOKEN
from server.agents.reasons import FailureReason
from server.agents.relay.meter import Tokens
from server.ports import AttemptRef, ModelEndpoint

REQUEST_LIMIT = 8 * 1024 * 1024

REPEATS, PATIENCE, LONGEST_PAUSE = 2, 30.0, 8.0
"""At most so many repeats of one request, within so many seconds, after pauses up to so many."""

SEEN_AT_LEAST, MOST_BYTES_PER_TOKEN = 256, 12

_UNEXPECTED = FailureReason.UNEXPECTED_REQUEST
_FIELDS = frozenset(
    # What qwen 0.24.4 sends, and what its settings can add.
    """
    model messages tools stream stream_options max_tokens temperature top_p top_k min_p seed stop
    presence_penalty frequency_penalty repetition_penalty reasoning_effort tool_choice
    parallel_tool_calls
    """.split()
)
_MESSAGE_FIELDS = frozenset(
    "role content name tool_calls tool_call_id reasoning_content reasoning refusal".split()
)
_TOOL_FIELDS = frozenset({"type", "function"})
_FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict"})


class Admission(Struct, frozen=True, kw_only=True):
    """What one attempt may ask of which endpoint."""

    ref: AttemptRef
    """For the log."""
    endpoint: ModelEndpoint
    tools: frozenset[str]
    """The only tools that a request may offer."""
    answer_tokens: int
    """Most `max_tokens` of a request; it must be there."""
    requests: int
    """Most model calls of the attempt."""
    total_tokens: int | None
    """Most tokens of the whole attempt, in and out, at the start of a request."""
    answer_bytes: int
    """Most bytes of one answer."""
    held: bool = False
    """Requests wait until `Pass.open`: the owner first wants to know who asks."""


class Refusal(Struct, frozen=True):
    """A request that goes nowhere: the HTTP status, a stable reason, and why, for a person."""

    status: int
    reason: str
    why: str


class Asked(Struct, frozen=True):
    """A request that may go on, byte for byte as it came."""

    body: bytes
    tools: frozenset[str]


class _RefusedError(Exception):
    def __init__(self, reason: FailureReason, why: str, *, status: int = 400) -> None:
        super().__init__(why)
        self.refusal = Refusal(status, reason, why)


def check(body: bytes, admission: Admission) -> Asked | Refusal:
    """Whether a request may go to the endpoint, and if not, why."""
    try:
        request = _parse(body)
        _check_fields(request, _FIELDS, "the request")
        _check_terms(request, admission)
        tools = frozenset(_tool_names(request.get("tools")))
        if beyond := sorted(tools - admission.tools):
            why = f"the agent offers tools that it must not have: {', '.join(beyond)[:200]}"
            raise _RefusedError(FailureReason.UNEXPECTED_TOOLS, why, status=403)
        deque(_texts(request), maxlen=0)
        return Asked(body, tools)
    except _RefusedError as error:
        return error.refusal


def must_deliver(asked: Asked, admission: Admission) -> bool:
    """Whether a cut or empty answer ends the attempt.

    The agent asks without tools when it sums up a long conversation for itself; it handles a cut
    there, and no result comes of it.
    """
    return bool(asked.tools) or not admission.tools


def context_cut(asked: Asked, tokens: Tokens) -> bool:
    """Whether the endpoint read far less than it was sent: it dropped a part of the prompt.

    Text has 3 to 5 bytes a token, dense code or Chinese less, so 12 leaves room for a template that
    drops the tools. Not judged, because these would be false alarms: prompts with pictures; servers
    that report what they took from a cache (some then count only the rest); tiny counts, which come
    from servers that do not count at all, or only the rest of a cached prompt. Blanks in a row
    count as one: one token can hold many.
    """
    enough = MOST_BYTES_PER_TOKEN * tokens.input
    if tokens.cached or tokens.input < SEEN_AT_LEAST or len(asked.body) <= enough:
        return False
    texts = list(_texts(_parse(asked.body)))
    size = sum(len(" ".join(text.split()).encode("utf-8", "replace")) for text in texts if text)
    return None not in texts and size > enough


def estimated(asked: Asked, *, events: int) -> Tokens:
    """What an answer cost whose endpoint does not count: a budget must not depend on that."""
    return Tokens(len(asked.body) // BYTES_PER_TOKEN, events, 0)


def pause(*, repeats: int, spent: float, retry_after: float | None, chance: float) -> float | None:
    """Seconds until the endpoint is asked again; None: not again.

    `repeats` were made in `spent` seconds; `chance` is drawn from 0 to 1 (full jitter). What the
    endpoint asks for is honoured when it fits, never shortened.
    """
    if repeats >= REPEATS:
        return None
    seconds = retry_after
    if seconds is None:
        seconds = chance * min(LONGEST_PAUSE, 2.0 ** (repeats + 1))
    return seconds if spent + seconds <= PATIENCE else None


def _parse(body: bytes) -> dict[str, Any]:
    # The standard parser: it takes half a surrogate pair, as the agent writes where it cuts a text
    # inside an emoji; msgspec does not.
    try:
        found = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise _RefusedError(_UNEXPECTED, "the request is no plain JSON") from error
    if not isinstance(found, dict):
        raise _RefusedError(_UNEXPECTED, "the request is no JSON object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_fields(value: object, allowed: frozenset[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _RefusedError(_UNEXPECTED, f"{what} is no JSON object")
    if unknown := sorted(value.keys() - allowed):
        listed = ", ".join(unknown)[:200]
        raise _RefusedError(_UNEXPECTED, f"{what} has unknown fields: {listed}")
    return value


def _check_terms(request: dict[str, Any], admission: Admission) -> None:
    if request.get("model") != admission.endpoint.model:
        raise _RefusedError(_UNEXPECTED, "the request names another model", status=403)
    if request.get("stream") is not True:
        raise _RefusedError(_UNEXPECTED, "the request does not ask for a stream")
    limit, most = request.get("max_tokens"), admission.answer_tokens
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 < limit <= most:
        raise _RefusedError(_UNEXPECTED, f"max_tokens must be from 1 to {most}")


def _tool_names(tools: object) -> Iterator[str]:
    if tools is None:
        return
    for tool in _items(tools, "tools"):
        function = _check_fields(tool, _TOOL_FIELDS, "a tool").get("function")
        name = _check_fields(function, _FUNCTION_FIELDS, "a tool's function").get("name")
        if tool.get("type") != "function" or not isinstance(name, str):
            raise _RefusedError(
                FailureReason.UNEXPECTED_TOOLS, "a tool is no function with a name", status=403
            )
        yield name


def _texts(request: dict[str, Any]) -> Iterator[str | None]:
    """Each text of the messages; None for a picture that is sent along."""
    for message in _items(request.get("messages"), "messages"):
        content = _check_fields(message, _MESSAGE_FIELDS, "a message").get("content")
        if content is None or isinstance(content, str):
            yield content or ""
        else:
            yield from map(_text, _items(content, "a content"))


def _text(part: object) -> str | None:
    match part:
        case {"type": "text", "text": str(text), **more} if not more:
            return text
        case {"type": "image_url", "image_url": {"url": str(url), **how}, **more} if (
            not more and how.keys() <= {"detail"} and url.startswith("data:")
        ):
            return None
        case _:
            # Endpoints fetch the addresses of pictures: that would be a way out.
            raise _RefusedError(_UNEXPECTED, "a message holds more than text")


def _items(value: object, what: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise _RefusedError(_UNEXPECTED, f"{what} is no list")
    return value
