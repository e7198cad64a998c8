"""The wire as one JSON Schema document: what `podium schema` prints and clients generate from."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any

import msgspec
from msgspec import Struct

from protocol.commands import Command
from protocol.errors import CLOSE_RULES, ErrorCode
from protocol.field_docs import NO_DOCS, Docs, docs_for, prose
from protocol.frames import ControlFrame, Frame, StoredFrame
from protocol.report import Report
from protocol.resources import FlowInfo, IndexRow, Project, Run, Step
from protocol.rest import FramesPage
from protocol.routes import ROUTES
from protocol.states import RUN_MOVES, STEP_MOVES

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SUBPROTOCOL = "podium.v1"

UNIONS: dict[str, Any] = {
    "message": Command,
    "stored_frame": StoredFrame,
    "control_frame": ControlFrame,
}
_RESOURCES = (Run, Step, Project, IndexRow, FlowInfo, Report)


_ASKED = {body for route in ROUTES for body in (route.body, route.or_body)}
"""What a client sends: it may leave out whatever has a default."""


class Components:
    """The schemas of some types. `definitions` has every Struct and enum under its own name, and
    the unions of the wire; `of` is what stands where a type is used."""

    def __init__(self, types: Iterable[Any], place: str, *, docs: Docs = NO_DOCS) -> None:
        """`place` is where the document keeps its definitions, as `#/$defs/`."""
        self._types: list[Any] = [*UNIONS.values(), *types]
        self._place = place
        schemas, found = msgspec.json.schema_components(
            self._types, ref_template=f"{place}{{name}}"
        )
        frame = {"anyOf": [self.named("stored_frame"), self.named("control_frame")]}
        unions = dict(zip(UNIONS, schemas, strict=False)) | {"frame": frame}
        used = [mapped(schema, _pattern_for_all) for schema in schemas[len(UNIONS) :]]
        self._schemas: list[Schema] = [*map(self.named, UNIONS), *used]
        kinds = {kind.__name__: kind for kind in _kinds(self._types)}
        found = mapped(found, _pattern_for_all)
        for name, schema in found.items():
            _complete(schema, kinds[name], docs_for(kinds[name], docs))
        if FramesPage.__name__ in found:
            # It is written from what is stored, without decoding it.
            frames = found[FramesPage.__name__]["properties"]["frames"]
            frames["items"] = self.named("stored_frame")
        self.definitions: Schema = unions | dict(sorted(found.items()))

    def of(self, kind: Any) -> Schema:
        return self._schemas[self._types.index(kind)]

    def named(self, name: str) -> Schema:
        return {"$ref": f"{self._place}{name}"}


def wire_schema(docs: Docs = NO_DOCS) -> Schema:
    """Every message, frame, resource and body by name, with the tables of errors, closes and
    states.

    The document itself accepts one message or one frame. `$defs` holds the unions `message`,
    `stored_frame`, `control_frame` and `frame`, and every Struct under its own name. The order is
    the same on every call. `docs` are the texts beside the fields.
    """
    bodies = [body for route in ROUTES for body in route.bodies]
    components = Components([*_RESOURCES, *bodies], "#/$defs/", docs=docs)
    return {
        "$schema": DIALECT,
        "title": SUBPROTOCOL,
        "anyOf": [components.named("message"), components.named("frame")],
        "$defs": components.definitions,
        "x-error-codes": [code.value for code in ErrorCode],
        "x-close-codes": close_codes(),
        "x-run-moves": _moves(RUN_MOVES),
        "x-step-moves": _moves(STEP_MOVES),
    }


def close_codes() -> Schema:
    """By code: the reason that is given, and whether a client should come back."""
    return {
        str(code.value): {"reason": rule.reason, "reconnect": rule.reconnect}
        for code, rule in CLOSE_RULES.items()
    }


def mapped(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """The schema with `change` made to every object in it, the innermost first."""
    match schema:
        case dict():
            return change({key: mapped(value, change) for key, value in schema.items()})
        case list():
            return [mapped(value, change) for value in schema]
        case _:
            return schema


def _pattern_for_all(schema: Schema) -> Schema:
    r"""Patterns are JavaScript's, which has no `\A` and no `\Z`."""
    match schema:
        case {"pattern": str(pattern)}:
            return {**schema, "pattern": pattern.replace(r"\A", "^").replace(r"\Z", "$")}
        case _:
            return schema


def _complete(schema: Schema, kind: type, docs: dict[str, str]) -> None:
    """Say what the Struct or enum means and msgspec leaves out."""
    if kind.__doc__:
        # Python 3.13 takes the indentation off a docstring, and those before it do not.
        schema["description"] = prose(kind.__doc__)
    if issubclass(kind, Enum):
        _complete_enum(schema, kind, docs)
    elif issubclass(kind, Struct) and "properties" in schema:
        _complete_struct(schema, kind, docs)


def _complete_struct(schema: Schema, kind: type[Struct], docs: dict[str, str]) -> None:
    for field in msgspec.structs.fields(kind):
        if field.name in docs:
            schema["properties"][field.encode_name]["description"] = docs[field.name]
    if kind in _ASKED:
        return
    always = _always_there(kind)
    schema["required"] = [name for name in schema["properties"] if name in always]
    for name in always:
        schema["properties"][name].pop("default", None)


def _always_there(kind: type[Struct]) -> set[str]:
    """The keys that an object of this kind has: those with a default too, unless the Struct omits
    them. A stored frame omits no stamp, for it has them from its commit on."""
    config = kind.__struct_config__
    stamps = ("seq", "at") if issubclass(kind, Frame) else ()
    always = {
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if not config.omit_defaults or field.required or field.name in stamps
    }
    return always | ({config.tag_field} if config.tag_field else set())


def _complete_enum(schema: Schema, kind: type[Enum], docs: dict[str, str]) -> None:
    """Members in their own order, each with its text."""
    schema["enum"] = [member.value for member in kind]
    texts = [f"`{kind[name].value}`: {text}" for name, text in docs.items()]
    if texts:
        about = [schema["description"]] if "description" in schema else []
        schema["description"] = "\n".join([*about, *texts])


def _kinds(types: Sequence[Any]) -> Iterator[type]:
    """Every Struct and enum that these types are made of."""
    waiting: list[Any] = list(msgspec.inspect.multi_type_info(types))
    seen: dict[int, Any] = {}
    while waiting:
        node = waiting.pop()
        if isinstance(node, list | tuple):
            waiting.extend(node)
        elif isinstance(node, Struct) and id(node) not in seen:
            seen[id(node)] = node
            if isinstance(node, msgspec.inspect.StructType | msgspec.inspect.EnumType):
                yield node.cls
            waiting.extend(getattr(node, name) for name in node.__struct_fields__)


def _moves(table: dict[Any, frozenset[Any]]) -> dict[str, list[str]]:
    return {
        state.value: [new.value for new in state.__class__ if new in moves]
        for state, moves in table.items()
    }
