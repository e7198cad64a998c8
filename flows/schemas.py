"""The JSON Schema that an agent must answer with."""

from typing import Any

import msgspec

from flows.outputs import OUTPUTS
from protocol.plan import Caps


def schema_for(output: str, caps: Caps) -> dict[str, Any]:
    """Return the schema of an output (a name of OUTPUTS) for a plan with these caps.

    Weak servers and models decide its form: no reference, no unknown property, every list and
    text bounded, every property required (an optional one may be null). The constant `end` is the
    last property, so an answer that was cut does not have it.
    """
    (reference,), definitions = msgspec.json.schema_components([OUTPUTS[output]])
    schema: dict[str, Any] = _plain(reference, definitions)
    if output == "findings":
        schema["properties"]["findings"]["maxItems"] = caps.findings_per_step
    return schema


def _plain(node: Any, definitions: dict[str, Any]) -> Any:
    """Copy a schema with its references replaced by what they name. Outputs do not recurse."""
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _plain(definitions[node["$ref"].rpartition("/")[2]], definitions)
    plain = {
        key: _properties(value, definitions) if key == "properties" else _plain(value, definitions)
        for key, value in node.items()
        if key not in ("title", "default")
    }
    if "properties" in plain:
        plain["required"] = list(plain["properties"])
    if "enum" in plain:
        plain["type"] = "string"
    return plain


def _properties(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The properties of an object: here `title` is a name, not a keyword."""
    return {name: _plain(schema, definitions) for name, schema in node.items()}
