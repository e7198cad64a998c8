"""JSON text ↔ Structs. What a client sends is decoded here once, and nowhere else.

Whatever the bytes are, decoding ends in a Struct or in a ProtocolError: deep nesting, huge numbers
and broken Unicode included.
"""

import re
from enum import StrEnum
from typing import Any, get_args

import msgspec
from msgspec import Struct

from protocol.commands import Band, Command, Detail, Launch, Plan
from protocol.errors import BadMessage, ErrorCode, MessageTooLarge
from protocol.frames import FlowRunError, ServerFrame
from protocol.ids import RunId, Seq

MESSAGE_LIMIT = 64 * 1024
NESTING = 64
"""How deep a free-form value (a launch's `input`) may be nested."""

_ENVELOPE_LIMIT = 16 * MESSAGE_LIMIT
"""A message past this is not even searched for its id."""

_ENCODER = msgspec.json.Encoder()
_COMMANDS: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_FRAMES: msgspec.json.Decoder[ServerFrame] = msgspec.json.Decoder(ServerFrame)

MESSAGE_TYPES: tuple[str, ...] = tuple(
    str(kind.__struct_config__.tag) for kind in get_args(Command)
)
"""The `type` of every message a client may send."""

_CHOICES: dict[str, type[StrEnum]] = {"band": Band, "detail": Detail}

_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""Any escape of a JSON string; group 1 is there when it is half of a surrogate pair."""


class UnknownFrame(Struct, frozen=True, kw_only=True):
    """A frame that this client is too old for. A stored one has a `seq`, which counts like any."""

    type: str
    run_id: RunId | None = None
    seq: Seq | None = None


class _Envelope(Struct, frozen=True):
    """The part of a message that is looked at when the message is no command."""

    id: Any = None
    type: Any = None


def decode_command(text: str | bytes, *, limit: int = MESSAGE_LIMIT) -> Command:
    """Return the command that `text` is.

    Raises MessageTooLarge past `limit` bytes of UTF-8 and BadMessage for everything else, with the
    message's id when it can be read and `field` naming what is wrong. Fields that this server does
    not know are ignored; lone surrogates become U+FFFD.
    """
    data = _utf8(text)
    if len(data) > limit:
        raise MessageTooLarge(len(data), limit, id=id_of(data))
    try:
        command = _COMMANDS.decode(data)
    except msgspec.ValidationError as error:
        raise _refusal(data, error) from None
    except (ValueError, RecursionError) as error:
        raise _not_json(error, id=id_of(data)) from None
    if isinstance(command, Launch | Plan) and too_deep(command.input):
        message = f"`input` is nested deeper than {NESTING} levels"
        raise BadMessage(message, id=command.id, field="input")
    return command


def id_of(text: str | bytes) -> str:
    """The id of a message that is not decoded; empty when it has no usable one."""
    data = _utf8(text)
    if len(data) > _ENVELOPE_LIMIT:
        return ""
    try:
        id = msgspec.json.decode(data, type=_Envelope).id
    except (ValueError, RecursionError):
        return ""
    return id if isinstance(id, str) and len(id) <= 64 else ""


def parse_json(data: str | bytes) -> Any:
    """Return plain JSON types; raises BadMessage. Lone surrogates become U+FFFD."""
    try:
        return msgspec.json.decode(_utf8(data))
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from None


def encode(value: object) -> bytes:
    """Return a Struct or JSON types as UTF-8 JSON. Lone surrogates (agents do write them) become
    U+FFFD."""
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        return _ENCODER.encode(_mended(msgspec.to_builtins(value)))


def encode_frame(frame: ServerFrame) -> bytes:
    """Return the frame as it goes over the wire and into the log."""
    return encode(frame)


def decode_frame(data: str | bytes) -> ServerFrame | UnknownFrame:
    """Return the frame, or an UnknownFrame when a newer server sent what this client cannot read.

    An error code of a newer server reads as `internal`: the message it answers must not stay
    unanswered. Raises BadMessage when `data` is no JSON object with a `type`.
    """
    try:
        return _FRAMES.decode(data)
    except msgspec.ValidationError:
        return _newer_frame(data)
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from None


def too_deep(value: object) -> bool:
    """Say whether plain JSON is nested deeper than NESTING levels."""
    level = [value]
    for _ in range(NESTING + 1):
        level = [child for node in level for child in _children(node)]
        if not level:
            return False
    return True


def place_of(error: msgspec.ValidationError) -> str | None:
    """The path of the field that an error is about, as `after.gen` or `steps[1]`."""
    text = str(error)
    place = _PLACE.search(text)
    path = place[1].replace("[...]", "") if place else ""
    missing = _MISSING.search(text)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
    return path or None


def sentence_of(error: msgspec.ValidationError) -> str:
    """What an error says, without its place; bounded, as it may repeat what it was given."""
    return _PLACE.sub("", str(error))[:300]


def _refusal(data: bytes, error: msgspec.ValidationError) -> BadMessage:
    id, field = id_of(data), place_of(error)
    if field == "type":
        known = "one of " + ", ".join(MESSAGE_TYPES)
        return BadMessage("the message has no known `type`", id=id, field=field, hint=known)
    choices = _CHOICES.get(field or "")
    hint = "one of " + ", ".join(choices) if choices else None
    return BadMessage(sentence_of(error), id=id, field=field, hint=hint)


def _not_json(error: Exception, *, id: str = "") -> BadMessage:
    if isinstance(error, RecursionError):
        return BadMessage("the JSON is nested too deeply", id=id)
    return BadMessage(f"not JSON: {error}", id=id, hint="one JSON object in UTF-8")


def _newer_frame(data: str | bytes) -> ServerFrame | UnknownFrame:
    fields = parse_json(data)
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise BadMessage("a frame is a JSON object with a `type`")
    known = {code.value for code in ErrorCode}
    try:
        if fields["type"] == "flow_run_error" and fields.get("code") not in known:
            return msgspec.convert(fields | {"code": ErrorCode.INTERNAL}, FlowRunError)
        if "at" not in fields:  # a control frame: a `seq` in it names another frame
            fields.pop("seq", None)
        return msgspec.convert(fields, UnknownFrame)
    except msgspec.ValidationError as error:
        raise BadMessage(sentence_of(error), field=place_of(error)) from None


def _utf8(text: str | bytes) -> bytes:
    """The text as bytes without lone surrogates, neither plain nor escaped.

    msgspec refuses them, but JavaScript and Python write them.
    """
    data = text if isinstance(text, bytes) else _encoded(text)
    if rb"\ud" in data or rb"\uD" in data:
        return _ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], data)
    return data


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text).encode()


def _mended(value: Any) -> Any:
    match value:
        case str():
            return _SURROGATES.sub("\ufffd", value)
        case dict():
            return {_mended(key): _mended(child) for key, child in value.items()}
        case list() | tuple():
            return [_mended(child) for child in value]
        case _:
            return value


def _children(node: object) -> list[Any]:
    match node:
        case dict():
            return list(node.values())
        case list():
            return node
        case _:
            return []
