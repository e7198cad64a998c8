"""The OpenAPI document is one by OpenAPI's own schema, and says what the table of routes says.

`openapi-3.1.json` is that schema. It leaves the schemas of bodies to JSON Schema; its meta-schema
checks those.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from protocol.checks import FLOW_NAME_MAX, MODEL_MAX
from protocol.commands import COMMAND_MAX, Band
from protocol.errors import HTTP_STATUS, ErrorCode
from protocol.openapi import openapi
from protocol.rest import CommandBody, InvalidRequest, LaunchBody, parse_launch
from protocol.route import JSON, Answer, Route, Tag
from protocol.routes import ROUTES
from tests.protocol.references import dangling

DOCUMENT = openapi(build="1.2.3", cookie="c")
SCHEMAS = DOCUMENT["components"]["schemas"]
OFFICIAL = json.loads((Path(__file__).parent / "openapi-3.1.json").read_text("utf-8"))
PROJECT = "6f1c2d3e-4b5a-4968-8776-95a4b3c2d1e0"


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method.lower()]
    return found


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(
        {"components": {"schemas": SCHEMAS}, "$ref": f"#/components/schemas/{name}"}
    )


def test_it_is_an_openapi_document() -> None:
    official = Draft202012Validator(OFFICIAL)
    official.validate(DOCUMENT)
    assert not official.is_valid({**DOCUMENT, "pathz": {}}), "the schema does find a fault"
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere() -> None:
    assert dangling(DOCUMENT) == []
    assert dangling({"a": {"$ref": "#/b"}}) == ["#/b"]


def test_it_has_every_route_once_with_a_name_of_its_own() -> None:
    told = {(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert told == {(route.method, route.path) for route in ROUTES}
    assert len(told) == len({route.name for route in ROUTES}) == len(ROUTES)
    assert {route.tag for route in ROUTES} == set(Tag) == {*map(Tag, tags())}


def tags() -> list[str]:
    return [tag["name"] for tag in DOCUMENT["tags"]]


def test_build_cookie_and_address_are_those_given() -> None:
    assert DOCUMENT["info"]["version"] == "1.2.3"
    assert DOCUMENT["components"]["securitySchemes"]["cookie"]["name"] == "c"
    assert DOCUMENT["servers"] == [{"url": "/"}]
    public = openapi(build="1", cookie="c", url="https://example.org/podium")
    assert public["servers"] == [{"url": "https://example.org/podium"}]


def test_what_follows_from_how_a_route_is_asked() -> None:
    cancel = operation("POST", "/api/runs/{id}/cancel")
    assert list(cancel["responses"]) == [
        "200", "400", "401", "403", "404", "409", "429", "503",
    ]  # fmt: skip
    for status in ("409", "429", "503"):
        assert list(cancel["responses"][status]["headers"]) == ["Retry-After"]
    assert "requestBody" not in cancel
    assert cancel["parameters"] == [
        {
            "name": "id",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "format": "uuid"},
        }
    ]
    launch = operation("POST", "/api/runs")
    assert {"200", "201", "400", "413", "415", "422"} <= set(launch["responses"])
    assert launch["requestBody"]["required"]
    assert not operation("POST", "/api/runs/{id}/rerun")["requestBody"]["required"]
    health = operation("GET", "/healthz")
    assert (list(health["responses"]), health["security"]) == (["200"], [])
    assert "security" not in launch
    assert len(DOCUMENT["security"]) == 2


UNUSUAL = {
    (415, ErrorCode.BAD_MESSAGE),
    (426, ErrorCode.BAD_MESSAGE),
    (503, ErrorCode.BUSY),
}
"""A body of another kind, a socket that is asked for as a page, and a server that stops."""


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_refusal_has_the_status_of_its_code(route: Route) -> None:
    refusals = {(answer.status, code) for answer in route.all_answers for code in answer.codes}
    for status, code in refusals - UNUSUAL:
        assert status == HTTP_STATUS[code]


def test_every_code_has_a_status() -> None:
    assert set(HTTP_STATUS) == set(ErrorCode)


def test_codes_of_one_status_come_together() -> None:
    events = operation("GET", "/api/runs/{id}/events")["responses"]["503"]
    assert events["description"] == "`busy`, `store_unavailable`."
    error = Draft202012Validator(
        {"components": {"schemas": SCHEMAS}, **events["content"][JSON]["schema"]}
    )
    assert error.is_valid({"error": "busy", "message": "m"})
    assert error.is_valid({"error": "store_unavailable", "message": "m", "hint": "h"})
    assert not error.is_valid({"error": "not_found", "message": "m"})
    assert not error.is_valid({"error": "busy"})


def test_a_stream_names_what_it_is_made_of() -> None:
    for name, media in (("events", "text/event-stream"), ("recording", "application/x-ndjson")):
        answer = operation("GET", f"/api/runs/{{id}}/{name}")["responses"]["200"]
        assert {"$ref": "#/components/schemas/stored_frame"} in (
            answer["content"][media]["x-itemSchema"]["anyOf"]
        )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "project_id": st.sampled_from([PROJECT, PROJECT.upper()]),
        "flow_name": st.sampled_from(["f", "", "f" * FLOW_NAME_MAX, "f" * (FLOW_NAME_MAX + 1)])
        | json_values,
        "band": st.sampled_from([*Band, "huge"]) | json_values,
        "input": st.fixed_dictionaries({"question": st.text(max_size=2)}) | json_values,
        "model": st.sampled_from(["", "m" * MODEL_MAX, "m" * (MODEL_MAX + 1), None]) | json_values,
        "command": st.sampled_from(["/f", "", "c" * (COMMAND_MAX + 1), None]) | json_values,
        "other": json_values,
    },
)
LAUNCH = validator(LaunchBody.__name__)
BY_COMMAND = validator(CommandBody.__name__)


@given(bodies)
def test_the_schema_of_a_launch_takes_exactly_what_the_server_takes(body: dict[str, Any]) -> None:
    """But for the form of an id: a `format` is for readers, and no validator must check it."""
    try:
        parse_launch(json.dumps(body).encode())
    except InvalidRequest:
        taken = False
    else:
        taken = True
    # A body that is both is refused: a schema of either one cannot say so.
    both = "command" in body and "flow_name" in body
    schema = BY_COMMAND if "command" in body else LAUNCH
    assert (schema.is_valid(body) and not both) == taken


def test_a_new_route_is_one_entry() -> None:
    route = Route(
        method="GET",
        path="/api/new/{name}",
        name="new",
        tag=Tag.SERVER,
        summary="New",
        answers=(Answer(200, LaunchBody),),
        codes=(ErrorCode.BUSY,),
    )
    assert [answer.status for answer in route.all_answers] == [200, 401, 403, 409, 429, 503]
