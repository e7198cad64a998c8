"""The socket and its twin, the event stream, as one AsyncAPI 3.0 document.

Its schemas are written in the words of JSON Schema draft 7, which AsyncAPI takes as its own.
"""

from typing import Any, get_args

from protocol.commands import Command
from protocol.field_docs import NO_DOCS, Docs, prose
from protocol.frames import ControlFrame, FlowRunAck, FlowRunError, StoredFrame
from protocol.openapi import SCHEMAS, security_schemes
from protocol.routes import STREAM
from protocol.schema import SUBPROTOCOL, UNIONS, Components, Schema, close_codes, mapped

VERSION = "3.0.0"
MESSAGES = "#/components/messages/"
COMMANDS: tuple[Any, ...] = get_args(Command)
FRAMES: tuple[Any, ...] = (*get_args(StoredFrame), *get_args(ControlFrame))
ANSWERS = (FlowRunAck, FlowRunError)
"""Every message of a client is answered by one of them, with the `id` of the message."""

ABOUT = """\
One socket carries every run that its user may see. A client asks with messages that have an `id` \
of its own; each is answered exactly once, by `flow_run_ack` or `flow_run_error` with that `id`. \
Frames with `seq` and `at` are a run's stored log, numbered 1, 2, 3 … without a hole; the others \
belong to the connection.

Inside `podium.v1` types, fields, codes and values of enums are only added: ignore what you do not \
know, and count the `seq` of frames that you do not know."""


def asyncapi(*, build: str, cookie: str, url: str, docs: Docs = NO_DOCS) -> Schema:
    """The document. `url` is where the server is asked, `cookie` the name of the session's there;
    `docs` are the texts beside the fields."""
    schemes = _security_schemes(cookie)
    components = Components([*COMMANDS, *FRAMES], SCHEMAS, docs=docs)
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "podium",
            "version": build,
            "description": ABOUT,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": _servers(url, schemes),
        "channels": {"socket": _socket(), "events": _events()},
        "operations": _operations(),
        "components": {
            "messages": {_type(kind): _message(kind, components) for kind in (*COMMANDS, *FRAMES)},
            "schemas": _schemas(components),
            "securitySchemes": schemes,
        },
    }


def _servers(url: str, schemes: Schema) -> Schema:
    """One that speaks WebSocket and one that speaks HTTP, at the same place."""
    scheme, _, place = url.rstrip("/").partition("://")
    host, _, prefix = place.partition("/")
    secure = "s" if scheme == "https" else ""
    path = {"pathname": f"/{prefix}"} if prefix else {}
    security = [{"$ref": f"#/components/securitySchemes/{name}"} for name in schemes]
    return {
        name: {
            "host": host,
            **path,
            "protocol": f"{protocol}{secure}",
            "security": security,
        }
        for name, protocol in (("socket", "ws"), ("events", "http"))
    }


def _socket() -> Schema:
    header = {"type": "string", "const": SUBPROTOCOL}
    return {
        "address": "/api/ws",
        "title": "The socket",
        "description": "One text message is one JSON object. No compression.",
        "servers": [{"$ref": "#/servers/socket"}],
        "messages": {_type(kind): _ref(kind) for kind in (*COMMANDS, *FRAMES)},
        "bindings": {
            "ws": {
                "method": "GET",
                "headers": {
                    "type": "object",
                    "required": ["Sec-WebSocket-Protocol"],
                    "properties": {"Sec-WebSocket-Protocol": header},
                },
                "bindingVersion": "0.1.0",
            }
        },
        "x-close-codes": close_codes(),
    }


def _events() -> Schema:
    return {
        "address": "/api/runs/{id}/events",
        "title": "One run as server-sent events",
        "description": "The twin of the socket for one run: each event is a frame of it, and the"
        " `id` of an event is the cursor `gen:seq`. See `/openapi.json` for how it is asked.",
        "servers": [{"$ref": "#/servers/events"}],
        "parameters": {"id": {"description": "The run's id."}},
        "messages": {_type(kind): _ref(kind) for kind in _streamed()},
    }


def _operations() -> Schema:
    """As the server sees it: it receives messages, and sends frames."""
    return {
        "receive_messages": {
            "action": "receive",
            "channel": {"$ref": "#/channels/socket"},
            "summary": "What a client says.",
            "messages": [_on("socket", kind) for kind in COMMANDS],
            "reply": {
                "channel": {"$ref": "#/channels/socket"},
                "messages": [_on("socket", kind) for kind in ANSWERS],
            },
        },
        "send_frames": {
            "action": "send",
            "channel": {"$ref": "#/channels/socket"},
            "summary": "What the server says.",
            "messages": [_on("socket", kind) for kind in FRAMES],
        },
        "send_events": {
            "action": "send",
            "channel": {"$ref": "#/channels/events"},
            "summary": "What a reader of one run gets.",
            "messages": [_on("events", kind) for kind in _streamed()],
        },
    }


def _message(kind: Any, components: Components) -> Schema:
    """One message, with the schema of its Struct. What is answered, and the answers, go by `id`."""
    message: Schema = {"name": _type(kind), "title": kind.__name__}
    if kind.__doc__:
        message["summary"] = prose(kind.__doc__)
    if kind in (*COMMANDS, *ANSWERS):
        message["correlationId"] = {"location": "$message.payload#/id"}
    return {**message, "payload": components.named(kind.__name__)}


def _schemas(components: Components) -> Schema:
    """The unions are told by the operations, and have a `discriminator` of another kind here."""
    unions = {*UNIONS, "frame"}
    schemas = {name: it for name, it in components.definitions.items() if name not in unions}
    return mapped(schemas, _draft_7)  # type: ignore[no-any-return]  # what it is given


def _draft_7(schema: Schema) -> Schema:
    """A tuple has its items one by one under `items`."""
    if "prefixItems" not in schema:
        return schema
    rest = {"additionalItems": schema["items"]} if "items" in schema else {}
    named = {key: value for key, value in schema.items() if key not in ("prefixItems", "items")}
    return {**named, "items": schema["prefixItems"], **rest}


def _security_schemes(cookie: str) -> Schema:
    """As OpenAPI has it, but that a cookie is a key of HTTP here."""
    schemes = security_schemes(cookie)
    return {**schemes, "cookie": {**schemes["cookie"], "type": "httpApiKey"}}


def _streamed() -> list[Any]:
    return [kind for union in STREAM for kind in (get_args(union) or (union,))]


def _type(kind: Any) -> str:
    return str(kind.__struct_config__.tag)


def _ref(kind: Any) -> Schema:
    return {"$ref": f"{MESSAGES}{_type(kind)}"}


def _on(channel: str, kind: Any) -> Schema:
    return {"$ref": f"#/channels/{channel}/messages/{_type(kind)}"}
