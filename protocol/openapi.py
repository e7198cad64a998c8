"""The REST routes as one OpenAPI 3.1 document. It says what `routes.py` says, and adds nothing."""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from protocol.field_docs import NO_DOCS, Docs
from protocol.route import JSON, OF_RUN, Answer, Parameter, Route, Tag
from protocol.routes import ROUTES
from protocol.schema import Components, Schema

VERSION = "3.1.1"
SCHEMAS = "#/components/schemas/"
ABOUT = """\
Read-only multi-agent flows, run and watched. Every run is one log of frames; REST starts, lists, \
shows and steers runs, and `GET /api/ws` (see `/asyncapi.json`) carries all of their frames.

Inside `podium.v1` fields, codes and values of enums are only added: ignore what you do not know. \
A GET may be asked as HEAD. Every error is a JSON object with an `error`; but a request whose \
headers are too large is answered 431 and one that comes too slowly 408, both without a body, and \
the connection ends."""
TAGS = {
    Tag.RUNS: "Launch, list, show and steer runs, and read their reports.",
    Tag.LOG: "The frames of a run: live, in pages, or as one file.",
    Tag.FLOWS: "What can be run, and with which plan.",
    Tag.PROJECTS: "What can be reviewed.",
    Tag.SIGN_IN: "Credentials for browsers and sockets.",
    Tag.USERS: "Who may come in, and what is theirs. For the operator alone.",
    Tag.SERVER: "The server itself.",
}
_IN_PATH = re.compile(r"\{(\w+)")
_RETRY: Schema = {
    "Retry-After": {
        "description": "Seconds, where the same request may succeed then.",
        "schema": {"type": "integer"},
    }
}
_HEADERS: dict[int, Schema] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string", "const": "Bearer"}}},
    409: _RETRY,
    429: _RETRY,
    503: _RETRY,
}


def openapi(*, build: str, cookie: str, url: str = "", docs: Docs = NO_DOCS) -> Schema:
    """The document. `url` is where the server is asked, empty: where the document came from;
    `cookie` is the name of the session's there; `docs` are the texts beside the fields."""
    schemes = security_schemes(cookie)
    kinds = [kind for route in ROUTES for kind in _kinds(route)]
    components = Components(kinds, SCHEMAS, docs=docs)
    return {
        "openapi": VERSION,
        "info": {
            "title": "podium",
            "version": build,
            "summary": "Conducts read-only multi-agent flows on a local model.",
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": url or "/"}],
        "tags": [{"name": tag.value, "description": TAGS[tag]} for tag in Tag],
        "security": [{name: []} for name in schemes],
        "paths": _paths(components),
        "components": {"schemas": components.definitions, "securitySchemes": schemes},
    }


def security_schemes(cookie: str) -> Schema:
    """The ways of signing in; each is enough."""
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "The user's token."},
        "cookie": {
            "type": "apiKey",
            "in": "cookie",
            "name": cookie,
            "description": "Set by `POST /api/session`; what changes something needs an Origin.",
        },
    }


def _paths(components: Components) -> Schema:
    paths: Schema = {}
    for route in ROUTES:
        item = paths.setdefault(route.path, {})
        item[route.method.lower()] = _operation(route, components)
    return paths


def _operation(route: Route, components: Components) -> Schema:
    operation: Schema = {"operationId": route.name, "tags": [route.tag.value]}
    operation["summary"] = route.summary
    if route.about:
        operation["description"] = route.about
    parameters = [_path_parameter(route, name) for name in _IN_PATH.findall(route.path)]
    parameters += [_parameter(it, components) for it in route.parameters]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = _request(route, components)
    operation["responses"] = {
        str(status): _response(status, list(answers), components)
        for status, answers in groupby(route.all_answers, key=attrgetter("status"))
    }
    return operation if route.signed_in else {**operation, "security": []}


def _path_parameter(route: Route, name: str) -> Schema:
    schema = {"type": "string"}
    if route.path.startswith(OF_RUN) and name == "id":
        schema["format"] = "uuid"
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameter(parameter: Parameter, components: Components) -> Schema:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.about,
        "schema": components.of(parameter.kind),
    }


def _request(route: Route, components: Components) -> Schema:
    bodies = [body for body in (route.body, route.or_body) if body is not None]
    required = all(components.definitions[body.__name__]["required"] for body in bodies)
    schema = _any_of([components.of(body) for body in bodies])
    return {"required": required, "content": {JSON: {"schema": schema}}}


def _response(status: int, answers: Sequence[Answer], components: Components) -> Schema:
    """All that comes with one status."""
    response: Schema = {"description": _about(answers)}
    if status in _HEADERS:
        response["headers"] = _HEADERS[status]
    content = {}
    for media in dict.fromkeys(it.media for it in answers):
        schema = _content([it for it in answers if it.media == media], components)
        if schema is not None:
            content[media] = schema
    return {**response, "content": content} if content else response


def _about(answers: Iterable[Answer]) -> str:
    told = [it.about for it in answers if it.about]
    codes = sorted({code.value for it in answers for code in it.codes})
    return " ".join([*told, *([f"{', '.join(f'`{code}`' for code in codes)}."] if codes else [])])


def _content(answers: Sequence[Answer], components: Components) -> Schema | None:
    """The content of one media type; None when there is none."""
    items = [components.of(kind) for it in answers for kind in it.items]
    if items:
        # OpenAPI 3.1 has no word for the parts of a stream; 3.2 calls this `itemSchema`.
        return {"schema": {"type": "string"}, "x-itemSchema": _any_of(items)}
    bodies = [components.of(it.body) for it in answers if it.body is not None and not it.codes]
    codes = sorted({code.value for it in answers for code in it.codes})
    if codes:
        error = next(components.of(it.body) for it in answers if it.codes)
        bodies.append({"allOf": [error, {"properties": {"error": {"enum": codes}}}]})
    if bodies:
        return {"schema": _any_of(bodies)}
    return None if answers[0].media == JSON else {"schema": {"type": "string"}}


def _any_of(schemas: list[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _kinds(route: Route) -> list[Any]:
    return [*route.bodies, *(it.kind for it in route.parameters)]
