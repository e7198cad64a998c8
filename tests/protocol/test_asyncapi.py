"""The AsyncAPI document: every message and frame of the wire once, each with its schema.

The official schema of AsyncAPI is too large to keep here; the rules of it that the document could
break are tested one by one.
"""

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from jsonschema import Draft7Validator

from protocol.asyncapi import asyncapi
from protocol.commands import Command
from protocol.errors import CloseCode
from protocol.frames import ControlFrame, StoredFrame
from protocol.routes import STREAM
from tests.protocol.golden import stored_lines
from tests.protocol.references import dangling, resolved

DOCUMENT = asyncapi(build="1.2.3", cookie="c", url="http://127.0.0.1:8765")
MESSAGES = DOCUMENT["components"]["messages"]
GOLDEN = [
    json.loads(line) for line in [*stored_lines("frames.jsonl"), *stored_lines("commands.jsonl")]
]
COMMANDS = [kind.__struct_config__.tag for kind in get_args(Command)]
FRAMES = [kind.__struct_config__.tag for kind in get_args(StoredFrame) + get_args(ControlFrame)]


def names(refs: list[dict[str, str]]) -> list[str]:
    """The names at the end of references."""
    return [ref["$ref"].rpartition("/")[2] for ref in refs]


def validator(name: str) -> Draft7Validator:
    payload = MESSAGES[name]["payload"]
    return Draft7Validator({"components": DOCUMENT["components"], "allOf": [payload]})


def test_it_has_the_parts_that_asyncapi_knows() -> None:
    known = {
        "asyncapi", "info", "defaultContentType", "servers", "channels", "operations", "components",
    }  # fmt: skip
    assert set(DOCUMENT) == known
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert {operation["action"] for operation in DOCUMENT["operations"].values()} == {
        "send", "receive",
    }  # fmt: skip


def test_every_reference_leads_somewhere() -> None:
    assert dangling(DOCUMENT) == []


def test_every_message_and_frame_is_there_once() -> None:
    operations = DOCUMENT["operations"]
    assert names(operations["receive_messages"]["messages"]) == COMMANDS
    assert names(operations["send_frames"]["messages"]) == FRAMES
    assert list(MESSAGES) == COMMANDS + FRAMES
    assert list(DOCUMENT["channels"]["socket"]["messages"]) == COMMANDS + FRAMES


def test_an_operation_uses_messages_of_its_own_channel() -> None:
    for operation in DOCUMENT["operations"].values():
        channel = operation["channel"]["$ref"]
        for message in [*operation["messages"], *operation.get("reply", {}).get("messages", [])]:
            assert message["$ref"].startswith(f"{channel}/messages/")


def test_every_message_has_the_schema_of_its_type() -> None:
    for name, message in MESSAGES.items():
        schema = resolved(DOCUMENT, message["payload"]["$ref"])
        assert schema["properties"]["type"] == {"enum": [name]}
        assert schema["title"] == message["title"]


def test_a_message_and_its_answer_go_by_id() -> None:
    answers = names(DOCUMENT["operations"]["receive_messages"]["reply"]["messages"])
    by_id = {name for name, message in MESSAGES.items() if "correlationId" in message}
    assert by_id == {*COMMANDS, *answers}
    for name in by_id:
        assert MESSAGES[name]["correlationId"] == {"location": "$message.payload#/id"}
        assert "id" in resolved(DOCUMENT, MESSAGES[name]["payload"]["$ref"])["required"]


@pytest.mark.parametrize("sample", GOLDEN, ids=lambda sample: sample["type"])
def test_every_golden_line_is_valid_as_its_message_alone(sample: dict[str, Any]) -> None:
    assert [name for name in MESSAGES if validator(name).is_valid(sample)] == [sample["type"]]


def keys(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from node
    for child in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        yield from keys(child)


def test_its_schemas_are_of_draft_7() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for schema in schemas.values():
        Draft7Validator.check_schema(schema)
    assert {"prefixItems", "$defs", "discriminator"}.isdisjoint(keys(schemas))
    lines = Draft7Validator(schemas["LineRange"])
    assert lines.is_valid([1, 2])
    assert not lines.is_valid([1, "2"])
    assert not lines.is_valid([1])


def test_the_events_are_those_of_the_route() -> None:
    streamed = [kind for union in STREAM for kind in (get_args(union) or (union,))]
    tags = [kind.__struct_config__.tag for kind in streamed]
    assert names(DOCUMENT["operations"]["send_events"]["messages"]) == tags


def test_how_a_socket_is_opened() -> None:
    socket = DOCUMENT["channels"]["socket"]
    headers = socket["bindings"]["ws"]["headers"]
    assert headers["properties"]["Sec-WebSocket-Protocol"]["const"] == "podium.v1"
    assert set(socket["x-close-codes"]) == {str(code.value) for code in CloseCode}
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert (schemes["cookie"]["type"], schemes["cookie"]["name"]) == ("httpApiKey", "c")


@pytest.mark.parametrize(
    ("url", "protocol", "host", "prefix"),
    [
        ("http://127.0.0.1:8765", "ws", "127.0.0.1:8765", None),
        ("https://example.org", "wss", "example.org", None),
        ("https://example.org/", "wss", "example.org", None),
        ("https://example.org:8443/a/b/", "wss", "example.org:8443", "/a/b"),
        ("http://[::1]:80", "ws", "[::1]:80", None),
    ],
)
def test_the_address(url: str, protocol: str, host: str, prefix: str | None) -> None:
    servers = asyncapi(build="1", cookie="c", url=url)["servers"]
    assert (servers["socket"]["protocol"], servers["socket"]["host"]) == (protocol, host)
    assert servers["socket"].get("pathname") == prefix
    assert servers["events"]["protocol"] == protocol.replace("ws", "http")
