"""The wire as TypeScript types, made from its JSON Schema; discriminated unions go by `type`."""

import json
import re
from collections.abc import Iterator
from typing import Any

from protocol.errors import CloseCode
from protocol.field_docs import NO_DOCS, Docs
from protocol.schema import Schema, wire_schema

HEAD = """\
// The wire of podium as types. Made from the Structs of protocol/; change those, then
// `PYTHONPATH=. python -m tests.protocol.golden` writes this file anew.
//
// Inside `podium.v1` types, fields, codes and values are only added: a client ignores what it does
// not know, and counts the `seq` of frames that it does not know.
"""
WIDTH = 100
_UNIONS = {
    "message": ("Command", "Everything that a client may send."),
    "stored_frame": ("StoredFrame", "A frame of a run's log: it has `seq` and `at`."),
    "control_frame": ("ControlFrame", "A frame of the connection."),
    "frame": ("Frame", "Everything that the server may send."),
}
_NAME = re.compile(r"[A-Za-z_$][\w$]*")


def typescript(docs: Docs = NO_DOCS) -> str:
    """The text of a `.d.ts` module; `docs` are the texts beside the fields."""
    definitions: dict[str, Schema] = wire_schema(docs)["$defs"]
    parts = [HEAD]
    for name, schema in definitions.items():
        name, about = _UNIONS.get(name, (name, schema.get("description", "")))
        parts.append(_comment(about, "") + _declared(name, schema))
    codes = _union([str(code.value) for code in CloseCode], "")
    parts.append(_comment("Why a socket was closed.", "") + f"export type CloseCode ={codes};\n")
    return "\n".join(parts)


def _declared(name: str, schema: Schema) -> str:
    if "properties" not in schema:
        return f"export type {name} ={_body(schema)};\n"
    lines = "".join(_fields(schema))
    return f"export interface {name} {{\n{lines}}}\n"


def _body(schema: Schema) -> str:
    """What stands right of a `=`: a long union has a line for each of its parts."""
    options = [_type(it) for it in schema["anyOf"]] if "anyOf" in schema else None
    if "enum" in schema:
        options = [json.dumps(value) for value in schema["enum"]]
    return f" {_type(schema)}" if options is None else _union(options, "")


def _union(options: list[str], indent: str) -> str:
    line = " " + " | ".join(options)
    if len(line) <= WIDTH - 40:
        return line
    return "".join(f"\n{indent}  | {option}" for option in options)


def _fields(schema: Schema) -> Iterator[str]:
    required = set(schema.get("required", ()))
    for name, field in schema["properties"].items():
        optional = "" if name in required else "?"
        key = name if _NAME.fullmatch(name) else json.dumps(name)
        about = _comment(field.get("description", ""), "  ")
        yield f"{about}  {key}{optional}: {_type(field)};\n"


def _type(schema: Any) -> str:
    """The expression of a schema."""
    match schema:
        case {"$ref": str(ref)}:
            name = ref.rpartition("/")[2]
            return _UNIONS[name][0] if name in _UNIONS else name
        case {"enum": list(values)}:
            return " | ".join(json.dumps(value) for value in values)
        case {"anyOf": list(options)}:
            return " | ".join(_type(it) for it in options)
        case {"prefixItems": list(items)}:
            return f"[{', '.join(_type(it) for it in items)}]"
        case {"type": "array", "items": items}:
            return _array(_type(items))
        case {"type": "object"}:
            return _record(schema)
        case {"type": str(kind)}:
            return {"integer": "number"}.get(kind, kind)
        case _:
            return "unknown"


def _array(item: str) -> str:
    return f"({item})[]" if " | " in item else f"{item}[]"


def _record(schema: Schema) -> str:
    """An object with keys of its own."""
    values = _type(schema.get("additionalProperties", {}))
    known = "".join(_fields(schema)).split("\n") if "properties" in schema else []
    fields = " ".join(line.strip() for line in known if line)
    record = f"Record<string, {values}>"
    return f"{record} & {{ {fields} }}" if fields else record


def _comment(text: str, indent: str) -> str:
    """A JSDoc comment; none for no text."""
    if not text:
        return ""
    lines = text.replace("*/", "*\\/").split("\n")
    if len(lines) == 1 and len(lines[0]) + len(indent) + 8 <= WIDTH:
        return f"{indent}/** {lines[0]} */\n"
    inner = "".join(f"{indent} * {line}".rstrip() + "\n" for line in _wrapped(lines, indent))
    return f"{indent}/**\n{inner}{indent} */\n"


def _wrapped(lines: list[str], indent: str) -> Iterator[str]:
    room = WIDTH - len(indent) - 3
    for line in lines:
        while len(line) > room:
            cut = line.rfind(" ", 0, room)
            if cut <= 0:
                break
            yield line[:cut]
            line = line[cut + 1 :]
        yield line
