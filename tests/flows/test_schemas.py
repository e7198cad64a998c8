"""The schemas that agents must answer with."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from flows.outputs import OUTPUTS
from flows.schemas import schema_for
from tests.flows.plans import caps

FINDING = {
    "title": "A title",
    "claim": "c",
    "category": "c",
    "severity": "warning",
    "confidence": "high",
    "citations": [{"path": "a.py", "line_start": 1, "line_end": 1, "quote": "x = 1"}],
    "impact": "i",
    "fix": None,
    "action": None,
    "alias": None,
}
ANSWER = {
    "summary": "s",
    "findings": [FINDING],
    "cleared": [],
    "deferred": [],
    "negative": False,
    "searched": [],
    "end": "complete",
}


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from nodes(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from nodes(value)


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_object_is_closed_and_complete(output: str) -> None:
    schema = schema_for(output, caps())
    jsonschema.Draft202012Validator.check_schema(schema)
    objects = [node for node in nodes(schema) if node.get("type") == "object"]
    assert objects
    for node in objects:
        assert node["additionalProperties"] is False
        assert node["required"] == list(node["properties"])
    assert all("$ref" not in node and "default" not in node for node in nodes(schema))


@pytest.mark.parametrize("output", OUTPUTS)
def test_everything_is_bounded(output: str) -> None:
    schema = schema_for(output, caps())
    for node in nodes(schema):
        if node.get("type") == "array":
            assert "maxItems" in node
        if node.get("type") == "string":
            assert "maxLength" in node or "enum" in node


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_constant_comes_last(output: str) -> None:
    schema = schema_for(output, caps())
    assert list(schema["properties"])[-1] == "end"
    assert schema["required"][-1] == "end"


def test_an_answer_that_was_cut_is_invalid() -> None:
    validator = jsonschema.Draft202012Validator(schema_for("findings", caps()))
    assert validator.is_valid(ANSWER)
    assert not validator.is_valid({key: ANSWER[key] for key in ANSWER if key != "end"})
    assert not validator.is_valid(ANSWER | {"end": "comp"})


def test_findings_are_capped_by_the_band() -> None:
    validator = jsonschema.Draft202012Validator(schema_for("findings", caps(findings_per_step=2)))
    assert validator.is_valid(ANSWER | {"findings": [FINDING] * 2})
    assert not validator.is_valid(ANSWER | {"findings": [FINDING] * 3})


def test_optional_properties_are_there_and_may_be_null() -> None:
    validator = jsonschema.Draft202012Validator(schema_for("findings", caps()))
    without = {key: FINDING[key] for key in FINDING if key != "fix"}
    assert not validator.is_valid(ANSWER | {"findings": [without]})
    assert validator.is_valid(ANSWER | {"findings": [FINDING | {"fix": "text"}]})
    assert not validator.is_valid(ANSWER | {"findings": [FINDING | {"title": None}]})
