"""Values of inputs: the same checks whether a value was typed or came as a field."""

import re
from collections.abc import Mapping
from typing import Any, assert_never

from flows.model import Flow, Input, InputType
from flows.paths import PathError, normalise

MAX_LIST = 200

# What git could read as an option, a range or a second argument is no reference here.
_GIT_REF = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_./@{}^~+#-]{0,199}")


class InputError(ValueError):
    """A value that its input does not take. The message does not name the input."""


def check_value(declared: Input, value: Any) -> Any:
    """Return `value` in its normal form, or raise InputError."""
    match declared.type:
        case InputType.TEXT | InputType.QUESTION:
            return _text(value)
        case InputType.TARGET if declared.many:
            return _paths(value)
        case InputType.TARGET | InputType.DOCUMENT:
            return _path(value)
        case InputType.GIT_REF:
            return _git_ref(value)
        case InputType.ENUM:
            if value not in declared.choices:
                raise InputError(f"is not one of {', '.join(declared.choices)}")
            return value
        case InputType.FLAG:
            if value is not True:
                raise InputError("is true or is left out")
            return value
    assert_never(declared.type)


def missing(flow: Flow, inputs: Mapping[str, Any]) -> Input | None:
    """Return the first required input that `inputs` lacks."""
    lacking = (declared for declared in flow.inputs if declared.required)
    return next((declared for declared in lacking if declared.name not in inputs), None)


def with_defaults(flow: Flow, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for every input of the flow: what was given, else its default."""
    return {
        declared.name: inputs.get(declared.name, _default(declared)) for declared in flow.inputs
    }


def path_list(value: Any) -> list[str]:
    """Return a list of paths in normal form, each once, or raise InputError."""
    return _paths(value)


def _default(declared: Input) -> Any:
    if declared.type is InputType.FLAG:
        return False
    return [] if declared.many and declared.type is InputType.TARGET else declared.default


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError("is not a text")
    if not value.strip():
        raise InputError("is empty")
    return value


def _path(value: Any) -> str:
    try:
        return normalise(_text(value))
    except PathError as error:
        raise InputError(f"is {error}") from error


def _paths(value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        raise InputError("is not a list of paths")
    if len(values) > MAX_LIST:
        raise InputError(f"has more than {MAX_LIST} paths")
    return list(dict.fromkeys(_path(item) for item in values))


def _git_ref(value: Any) -> str:
    if not isinstance(value, str) or _GIT_REF.fullmatch(value) is None:
        raise InputError("is not the name of a commit, branch or tag")
    return value
