"""Reads a streamed answer as it passes by: its cost, its end and what is wrong with it. Pure.

It reads server-sent events as the agent's own client does, so that nothing can look whole to one of
the two and broken to the other. How the bytes are cut into pieces makes no difference.
"""

import json
import re
from typing import Any

import msgspec
from msgspec import Struct

from server.agents.reasons import FailureReason

EVENT_LIMIT = 1024 * 1024
"""Most bytes of one event: far above any honest one, and all that is ever kept."""
COUNT_LIMIT = 10**9
"""A token count above this is no count."""
CUT = frozenset({"length", "max_tokens", "model_length"})
"""What servers call an answer that ran into a limit."""

_LINE_END = re.compile(rb"\r\n|\n|\r")


class Flaw(Struct, frozen=True):
    """What is wrong with an answer, and what was seen of it, for a person."""

    reason: FailureReason
    seen: str


class Tokens(Struct, frozen=True):
    """What an answer cost, as the endpoint counts."""

    input: int
    output: int
    cached: int


class _Delta(Struct):
    content: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    reasoning_content: Any = None
    reasoning: Any = None


class _Choice(Struct):
    delta: _Delta | None = None
    finish_reason: Any = None


class _Chunk(Struct):
    object: Any = None
    error: Any = None
    message: Any = None
    usage: Any = None
    choices: list[_Choice] | None = None


_decoder = msgspec.json.Decoder(_Chunk)


class Meter:
    """Watches one answer. `flaw` is the first thing wrong with it; after that, or after `done`,
    nothing more is read."""

    def __init__(self, *, answer_bytes: int, must_deliver: bool = True) -> None:
        """At most `answer_bytes` may come, comments included. `must_deliver`: an answer that is cut
        or empty is a flaw."""
        self._room = answer_bytes
        self._must_deliver = must_deliver
        self._rest = bytearray()
        self._after_cr = False
        self._event = b""
        self._data: list[bytes] = []
        self._kept = 0
        self.flaw: Flaw | None = None
        self.done = False
        """`[DONE]` has come."""
        self.events = 0
        """Events with data of the model; comments and `[DONE]` are none."""
        self.finish_reason: str | None = None
        self.usage: Tokens | None = None
        """The last one reported: some servers count along."""
        self.spoke = False
        """There was text that is not blank, or a tool call."""
        self.thought = False
        """There was reasoning."""

    def feed(self, data: bytes) -> Flaw | None:
        """Take the next bytes; returns the flaw as soon as there is one."""
        if self._over:
            return self.flaw
        allowed = data[: self._room]
        self._room -= len(allowed)
        self._read(allowed)
        if not self._over and len(data) > len(allowed):
            self._fail(
                FailureReason.ANSWER_TOO_LONG,
                "it did not end within the bytes that an answer may have",
            )
        return self.flaw

    def end(self) -> Flaw | None:
        """No more bytes come. An answer with its finish reason is whole, with `[DONE]` or not."""
        if not self._over and self.finish_reason is None:
            self._fail(FailureReason.STREAM_CUT, f"it broke off after {self.events} events")
        return self.flaw

    @property
    def _over(self) -> bool:
        return self.done or self.flaw is not None

    def _fail(self, reason: FailureReason, seen: str) -> None:
        self.flaw = self.flaw or Flaw(reason, seen)

    def _read(self, data: bytes) -> None:
        """Cut into lines. Only new bytes are searched: a long line that comes byte by byte costs
        no more than one that comes whole."""
        if not data:
            return
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        start = 0
        for found in _LINE_END.finditer(data):
            self._rest += data[start : found.start()]
            start = found.end()
            line = bytes(self._rest)
            self._rest.clear()
            self._take_line(line)
            if self._over:
                return
        self._rest += data[start:]
        self._check_size(len(self._rest))

    def _check_size(self, size: int) -> None:
        if self._kept + size > EVENT_LIMIT:
            self._fail(
                FailureReason.EVENT_TOO_LARGE, f"one event has more than {EVENT_LIMIT} bytes"
            )

    def _take_line(self, line: bytes) -> None:
        self._check_size(len(line))
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if self._over:
            return
        if not line:
            self._dispatch()
        elif name == b"data":
            self._data.append(value)
            self._kept += len(line)
        elif name == b"event":
            self._event = value
        elif name == b"error":
            # llama.cpp's own way of saying it, outside the protocol.
            self._fail(FailureReason.ENDPOINT_ERROR, said_in(value))

    def _dispatch(self) -> None:
        data, event = b"\n".join(self._data), self._event
        self._data.clear()
        self._kept, self._event = 0, b""
        if data.startswith(b"[DONE]"):
            self._finish()
        elif event == b"error":
            self._fail(FailureReason.ENDPOINT_ERROR, said_in(data))
        elif data:
            self._take_event(data)

    def _finish(self) -> None:
        if self.finish_reason is None:
            self._fail(
                FailureReason.STREAM_MALFORMED,
                "it says that it is done, but gives no finish reason",
            )
        else:
            self.done = True

    def _take_event(self, data: bytes) -> None:
        chunk = _decode(data)
        if chunk is None:
            self._fail(FailureReason.STREAM_MALFORMED, "an event is no JSON of a chat answer")
        elif chunk.error or chunk.object == "error":
            self._fail(FailureReason.ENDPOINT_ERROR, said_in(data))
        else:
            self.events += 1
            self.usage = _tokens(chunk.usage) or self.usage
            for choice in chunk.choices or ():
                self._take_choice(choice)

    def _take_choice(self, choice: _Choice) -> None:
        delta = choice.delta or _Delta()
        self.spoke = self.spoke or bool(
            _has_text(delta.content)
            or _has_text(delta.refusal)
            or delta.tool_calls
            or delta.function_call
        )
        self.thought = (
            self.thought or _has_text(delta.reasoning_content) or _has_text(delta.reasoning)
        )
        if isinstance(choice.finish_reason, str) and choice.finish_reason:
            self._take_finish(choice.finish_reason[:40])

    def _take_finish(self, reason: str) -> None:
        self.finish_reason = reason
        if not self._must_deliver:
            return
        if reason.lower() in CUT:
            self._fail(FailureReason.ANSWER_CUT, f"finish reason {reason}")
        elif not self.spoke:
            only = "it only thought" if self.thought else "it has neither text nor a tool call"
            self._fail(FailureReason.EMPTY_ANSWER, only)


def said_in(data: bytes) -> str:
    """What an endpoint says in an error body, in whatever shape: its message, else the text."""
    text = data.decode("utf-8", "replace").strip()
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for _ in range(3):
        if isinstance(found, list) and found:
            found = found[0]
        elif isinstance(found, dict):
            found = next((found[k] for k in ("error", "message", "detail") if found.get(k)), text)
    return found if isinstance(found, str) else text


def _decode(data: bytes) -> _Chunk | None:
    try:
        return _decoder.decode(data)
    except RecursionError:
        return None
    except msgspec.DecodeError:
        return _decode_leniently(data)


def _decode_leniently(data: bytes) -> _Chunk | None:
    """As JavaScript reads it: half a surrogate pair, which msgspec refuses, is no fault there."""
    try:
        return msgspec.convert(json.loads(data), _Chunk)
    except (ValueError, RecursionError):
        return None


def _has_text(value: object) -> bool:
    return isinstance(value, str) and not value.isspace() and value != ""


def _tokens(usage: object) -> Tokens | None:
    """The counts, as far as they are counts; None when there is none."""
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    tokens = Tokens(
        _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), _count(cached)
    )
    return tokens if tokens.input or tokens.output else None


def _count(value: object) -> int:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_LIMIT
    return value if good and isinstance(value, int) else 0
