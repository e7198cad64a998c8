"""The part of the OpenAI chat protocol that the demo model speaks. Pure: values in, bytes out.

Decoding is lenient (unknown fields pass); encoding is exact: a role chunk, text deltas, tool-call
deltas whose arguments come in several pieces, one chunk with `finish_reason`, then the usage chunk
when it was asked for, then `[DONE]`.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

MODEL = "podium-demo"
CONTEXT_TOKENS = 131_072
CHARS_PER_TOKEN = 4
TEXT_PIECE = 12
ARGUMENT_PIECES = 40


class Part(Struct, frozen=True):
    type: str
    text: str | None = None


class FunctionCall(Struct, frozen=True):
    name: str = ""
    arguments: str = ""


class ToolCall(Struct, frozen=True):
    id: str
    function: FunctionCall


class Message(Struct, frozen=True):
    role: str
    content: str | list[Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """All text of the message, its parts joined in order."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""


class Function(Struct, frozen=True):
    name: str
    parameters: dict[str, Any] | None = None


class Tool(Struct, frozen=True):
    function: Function


class StreamOptions(Struct, frozen=True):
    include_usage: bool = False


class ChatRequest(Struct, frozen=True):
    messages: list[Message]
    model: str = MODEL
    tools: list[Tool] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def turn(self) -> int:
        """How often the model has answered in this conversation already."""
        return sum(message.role == "assistant" for message in self.messages)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def tool(self, name: str) -> Function | None:
        """The offered tool of that name."""
        return next((t.function for t in self.tools or () if t.function.name == name), None)


class Call(Struct, frozen=True):
    """One tool call; `arguments` is JSON text."""

    name: str
    arguments: str


class Turn(Struct, frozen=True):
    """One answer of the model: text, then tool calls."""

    text: str
    calls: tuple[Call, ...] = ()

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.calls else "stop"


def call(name: str, arguments: object) -> Call:
    """A call of `name` with `arguments`, anything that msgspec can encode."""
    return Call(name, msgspec.json.encode(arguments).decode())


_decoder = msgspec.json.Decoder(ChatRequest)


def decode(body: bytes) -> ChatRequest:
    """Read a request. Raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
    return _decoder.decode(body)


def text_pieces(text: str) -> list[str]:
    """Cut `text` at word ends into small pieces, no two equal in a row.

    The CLI swallows a delta that equals the one before it, so an equal piece is cut once more.
    """
    pieces: list[str] = []
    piece = ""
    for word in text.split(" "):
        piece += word + " "
        if len(piece) >= TEXT_PIECE:
            _add_piece(pieces, piece)
            piece = ""
    if piece:
        _add_piece(pieces, piece)
    last = pieces.pop().removesuffix(" ")
    if last:
        _add_piece(pieces, last)
    return pieces


def _add_piece(pieces: list[str], piece: str) -> None:
    if pieces and pieces[-1] == piece:
        pieces += [piece[:1], piece[1:]]
    else:
        pieces.append(piece)


def argument_pieces(arguments: str) -> list[str]:
    """Cut JSON text into at most some 40 pieces, so that a long result does not take long."""
    size = max(24, len(arguments) // ARGUMENT_PIECES + 1)
    return [arguments[start : start + size] for start in range(0, len(arguments), size)]


def events(request: ChatRequest, turn: Turn) -> Iterator[bytes]:
    """The server-sent events of one streamed answer, in order, `[DONE]` last."""
    yield event(chunk(request, {"role": "assistant", "content": ""}))
    for piece in text_pieces(turn.text):
        yield event(chunk(request, {"content": piece}))
    for index, made in enumerate(turn.calls):
        for delta in _call_deltas(request, made, index):
            yield event(chunk(request, {"tool_calls": [delta]}))
    yield event(chunk(request, {}, finish=turn.finish_reason))
    if request.wants_usage:
        yield event(
            {**_head(request, "chat.completion.chunk"), "choices": []} | usage(request, turn)
        )
    yield b"data: [DONE]\n\n"


def _call_deltas(request: ChatRequest, made: Call, index: int) -> Iterator[dict[str, Any]]:
    function = {"name": made.name, "arguments": ""}
    yield {"index": index, "id": call_id(request, index), "type": "function", "function": function}
    for piece in argument_pieces(made.arguments):
        yield {"index": index, "function": {"arguments": piece}}


def completion(request: ChatRequest, turn: Turn) -> dict[str, Any]:
    """The whole answer as one object, for a request that does not stream."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.text}
    if turn.calls:
        message["tool_calls"] = [
            {
                "id": call_id(request, index),
                "type": "function",
                "function": {"name": made.name, "arguments": made.arguments},
            }
            for index, made in enumerate(turn.calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": turn.finish_reason}
    return {**_head(request, "chat.completion"), "choices": [choice], **usage(request, turn)}


def chunk(
    request: ChatRequest, delta: dict[str, Any], *, finish: str | None = None
) -> dict[str, Any]:
    """One `chat.completion.chunk` object."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {**_head(request, "chat.completion.chunk"), "choices": [choice]}


def event(payload: object) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def usage(request: ChatRequest, turn: Turn) -> dict[str, Any]:
    """Counts in the size of tokens (4 characters each): nothing here has a tokenizer."""
    asked = len(msgspec.json.encode(request)) // CHARS_PER_TOKEN
    said = sum(len(made.arguments) for made in turn.calls) + len(turn.text)
    answered = said // CHARS_PER_TOKEN + 1
    return {
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
        }
    }


def call_id(request: ChatRequest, index: int) -> str:
    """The id of a tool call: its turn and its place, so the same request gives the same id."""
    return f"call_{request.turn}_{index}"


def _head(request: ChatRequest, kind: str) -> dict[str, Any]:
    # `created` is constant on purpose: an answer is a function of its request.
    return {"id": f"chatcmpl-demo-{request.turn}", "object": kind, "created": 0, "model": MODEL}
