"""What a server says of itself, held against what it really sends.

`Watched` stands between the server and the application, so that it sees every answer of every test
that uses the harness. Objects are closed: a field that the documents do not name is a fault, though
a client would have to ignore it.
"""

import json
import re
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from jsonschema import Draft7Validator, Draft202012Validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocol.schema import mapped

SHOWN = 300


class Fault(AssertionError):
    """Something was sent that the documents do not say."""


class RestContract:
    """An OpenAPI document, ready to check answers."""

    def __init__(self, data: bytes) -> None:
        document = closed(json.loads(data))
        self._schemas = document["components"]["schemas"]
        self._below = urlsplit(document["servers"][0]["url"]).path.rstrip("/")
        self._operations = {
            (method.upper(), path): operation["responses"]
            for path, item in document["paths"].items()
            for method, operation in item.items()
        }
        self._validators: dict[str, dict[str | None, Draft202012Validator]] = {}
        self._paths = [(_pattern(path), path) for path in document["paths"]]

    def check(self, method: str, path: str, status: int, media: str, body: bytes) -> None:
        """Raises Fault for an answer that the document does not have. A path that it does not name
        is that of a file of the page, or of nothing."""
        own = path.removeprefix(self._below)
        template = next((name for form, name in self._paths if form.fullmatch(own)), None)
        if template is None:
            return
        place = f"{method} {template}: {status} {media}"
        content = self._content(method, template, status)
        if content is None:
            raise Fault(f"{place}: an undocumented status: {body[:SHOWN]!r}")
        if method != "HEAD" and (content or body):
            self._check_body(place, content, media, body)

    def _content(self, method: str, template: str, status: int) -> dict[str, Any] | None:
        """What may come with a status, by media type; None for a status that may not come."""
        operation = self._operations.get(("GET" if method == "HEAD" else method, template))
        if operation is None:
            # Another method than those of a path is asked of the files of the page.
            return {"text/plain": {"schema": {"type": "string"}}} if status in (404, 405) else None
        response = operation.get(str(status))
        return None if response is None else response.get("content", {})

    def _check_body(self, place: str, content: Any, media: str, body: bytes) -> None:
        if media not in content:
            raise Fault(f"{place}: an undocumented body: {body[:SHOWN]!r}")
        if place not in self._validators:
            self._validators[place] = dict(self._parts(content[media]))
        validators, streamed = self._validators[place], "x-itemSchema" in content[media]
        for value in _values(place, media, body):
            kind = value.get("type") if streamed else None
            if kind not in validators:
                raise Fault(f"{place}: an undocumented part: {kind}")
            _check(validators[kind], value, place)

    def _parts(self, content: Any) -> Iterator[tuple[str | None, Draft202012Validator]]:
        """A validator for the body, or one for each `type` of which a stream is made: to try every
        member of a union for every frame would take most of the time of a test."""
        streamed = "x-itemSchema" in content
        for schema in self._members(content["x-itemSchema"]) if streamed else [content["schema"]]:
            own = self._resolved(schema)
            kind = own.get("properties", {}).get("type") if streamed else None
            validator = Draft202012Validator({"components": {"schemas": self._schemas}, **own})
            yield None if kind is None else kind["enum"][0], validator

    def _members(self, schema: Any) -> Iterator[Any]:
        """The members of a union of unions."""
        inner = self._resolved(schema)
        if "anyOf" not in inner:
            yield schema
            return
        for member in inner["anyOf"]:
            yield from self._members(member)

    def _resolved(self, schema: Any) -> Any:
        return self._schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


class SocketContract:
    """An AsyncAPI document, ready to check frames."""

    def __init__(self, data: bytes) -> None:
        document = closed(json.loads(data))
        components = document["components"]
        sent = document["operations"]["send_frames"]["messages"]
        names = [message["$ref"].rpartition("/")[2] for message in sent]
        payloads = {name: components["messages"][name]["payload"]["$ref"] for name in names}
        self._validators = {
            name: Draft7Validator(
                {"components": components, **components["schemas"][ref.rpartition("/")[2]]}
            )
            for name, ref in payloads.items()
        }

    def check(self, frame: dict[str, Any]) -> None:
        """Raises Fault for a frame that the document does not have."""
        name = frame.get("type")
        if name not in self._validators:
            raise Fault(f"an undocumented frame: {name}")
        _check(self._validators[str(name)], frame, f"frame {name}")


rest_contract = cache(RestContract)
socket_contract = cache(SocketContract)
"""Most servers of the tests serve the same bytes."""


class Watched:
    """An application, and every way in which it broke its own contract."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.contract: RestContract | None = None
        """Answers are checked once it is there."""
        self.faults: list[str] = []
        self.answers = 0
        """Checked so far."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.contract is None or scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        seen = _Seen(scope)

        async def watched(message: Message) -> None:
            seen.take(message)
            if seen.complete:
                self._judge(seen)
            await send(message)

        await self._app(scope, receive, watched)

    def require_none(self) -> None:
        """Raises Fault with all that was wrong."""
        if self.faults:
            raise Fault("\n".join(self.faults))

    def _judge(self, seen: "_Seen") -> None:
        assert self.contract is not None
        self.answers += 1
        try:
            self.contract.check(seen.method, seen.path, seen.status, seen.media, seen.body)
        except Fault as fault:
            self.faults.append(str(fault))


class _Seen:
    """One answer, as far as it was sent. A socket that is refused is answered like a request."""

    def __init__(self, scope: Scope) -> None:
        self.method = scope.get("method", "GET")
        self.path = scope["path"]
        self.status = 0
        self.media = ""
        self.complete = False
        self._packed = False
        self._chunks: list[bytes] = []

    def take(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                headers = {name.lower(): value.decode() for name, value in message["headers"]}
                self.status = message["status"]
                self.media = headers.get(b"content-type", "").partition(";")[0]
                self._packed = headers.get(b"content-encoding") == "gzip"
            case "http.response.body" | "websocket.http.response.body":
                self._chunks.append(message.get("body", b""))
                self.complete = not message.get("more_body", False)
            case "websocket.accept":
                self.status, self.complete = 101, True
            case _:
                self.complete = False

    @property
    def body(self) -> bytes:
        whole = b"".join(self._chunks)
        return zlib.decompress(whole, 16 + zlib.MAX_WBITS) if self._packed and whole else whole


def closed(document: Any) -> Any:
    """The document with every object that names its fields closed to others."""

    def close(schema: dict[str, Any]) -> dict[str, Any]:
        if schema.get("type") == "object" and "title" in schema and "properties" in schema:
            return {"additionalProperties": False, **schema}
        return schema

    return mapped(document, close)


def _values(place: str, media: str, body: bytes) -> list[Any]:
    """The value of a body, or each that a stream is made of."""
    try:
        return list(_decoded(media, body))
    except ValueError as error:
        raise Fault(f"{place}: not of its media type: {error}: {body[:SHOWN]!r}") from error


def _decoded(media: str, body: bytes) -> Iterator[Any]:
    lines = body.split(b"\n")
    match media:
        case "application/json":
            yield json.loads(body)
        case "text/event-stream":
            yield from (json.loads(line[6:]) for line in lines if line.startswith(b"data: "))
        case "application/x-ndjson":
            yield from (json.loads(line) for line in lines if line)
        case _:
            yield body.decode()


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))


def _check(validator: Any, value: Any, place: str) -> None:
    error = next(validator.iter_errors(value), None)
    if error is not None:
        at = "/".join(str(part) for part in error.absolute_path)
        raise Fault(f"{place}: at `{at}`: {error.message[:SHOWN]}: {json.dumps(value)[:SHOWN]}")
