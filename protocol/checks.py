"""The fields of a body or a query, each with its check. A fault is said in zod's words."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from protocol.codec import NESTING, too_deep
from protocol.commands import COMMAND_MAX, Band, Cursor, Detail
from protocol.ids import is_uuid

T = TypeVar("T")

FLOW_NAME_MAX = 100
QUESTION_MAX = 64_000
MODEL_MAX = 200

CURSOR = r"([1-9][0-9]{0,14}):(0|[1-9][0-9]{0,14})"
"""`gen:seq`, as the `id` of an event has it."""

_CURSOR = re.compile(CURSOR)


class Fault(Exception):
    """What is wrong with one field."""


class Fields:
    """Takes fields one by one and keeps what is wrong with each."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.errors: dict[str, list[str]] = {}

    def take(self, name: str, check: Callable[[Any], T]) -> T | None:
        """The checked value, or None with the fault noted."""
        try:
            if name not in self._values:
                raise Fault("Required")
            return check(self._values[name])
        except Fault as fault:
            self.errors[name] = [str(fault)]
            return None


def uuid_of(value: Any) -> str:
    text = string_of(value).lower()
    if not is_uuid(text):
        raise Fault("Invalid uuid")
    return text


def flow_name_of(value: Any) -> str:
    return string_of(value, least=1, most=FLOW_NAME_MAX)


def command_of(value: Any) -> str:
    return string_of(value, most=COMMAND_MAX)


def model_of(value: Any) -> str | None:
    """An empty name is no name: the endpoint's own model."""
    return string_of(value, most=MODEL_MAX) or None


def band_of(value: Any) -> Band:
    expected = " | ".join(f"'{band.value}'" for band in Band)
    if not isinstance(value, str):
        raise Fault(f"Expected {expected}, received {kind_of(value)}")
    if value not in set(Band):
        raise Fault(f"Invalid enum value. Expected {expected}, received '{value[:100]}'")
    return Band(value)


def cursor_of(value: Any) -> Cursor:
    found = _CURSOR.fullmatch(value)
    if found is None:
        raise Fault(f"Expected gen:seq as in '1:42', received '{value[:100]}'")
    return Cursor(gen=int(found[1]), seq=int(found[2]))


def detail_of(value: Any) -> Detail:
    if value not in set(Detail):
        expected = " | ".join(f"'{detail.value}'" for detail in Detail)
        raise Fault(f"Invalid enum value. Expected {expected}, received '{value[:100]}'")
    return Detail(value)


def input_of(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Fault(f"Expected object, received {kind_of(value)}")
    if "question" not in value:
        raise Fault("question: Required")
    try:
        string_of(value["question"], least=1, most=QUESTION_MAX)
    except Fault as fault:
        raise Fault(f"question: {fault}") from None
    if too_deep(value):
        raise Fault(f"Nested deeper than {NESTING} levels")
    return value


def string_of(value: Any, *, least: int = 0, most: int | None = None) -> str:
    if not isinstance(value, str):
        raise Fault(f"Expected string, received {kind_of(value)}")
    if len(value) < least:
        raise Fault(f"String must contain at least {least} character(s)")
    if most is not None and len(value) > most:
        raise Fault(f"String must contain at most {most} character(s)")
    return value


def kind_of(value: object) -> str:
    """The JSON name of a value's type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
