"""Slash commands: from what a person types to an invocation of a flow.

    /flow [band] [--flag value] [--only ROLE] [--skip ROLE] [--exclude PATH] [target…] ["focus"]

The first word is the band when it has the name of one, in capitals or not (a file of that name is
`./small`; where words are plain text, a capital begins a sentence). Text in double quotes is the
focus. What starts with `--` is a flag, written `--flag value` or `--flag=value`; flags may stand
anywhere. Every other word is an argument by its place. Nothing here touches the disk: whether a
path exists is for the reader of the project to say. `canonical.py` writes what is read here.
"""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from msgspec import Struct

from flows import words
from flows.expressions import BAND_NAMES
from flows.inputs import InputError, check_value, missing, path_list
from flows.model import Flow, Input, InputType
from flows.registry import Catalogue, usage
from flows.words import Word, WordError
from protocol.commands import Band
from protocol.errors import ErrorCode, ProtocolError

BUILTINS = {"flows": "optional", "runs": "none", "cancel": "one", "finish": "one", "help": "none"}
"""The commands about podium itself, and whether they take an argument."""

MAX_SHOWN = 80
_SIZES = {"xs": "small", "s": "small", "m": "medium", "l": "large", "xl": "large"}
"""Bands as others name them."""
TEXTS = (InputType.TEXT, InputType.QUESTION)


class SlashError(ProtocolError):
    """A launch that cannot be understood. `column` counts characters from 1; None for fields."""

    def __init__(
        self,
        message: str,
        *,
        column: int | None,
        field: str | None = None,
        hint: str | None = None,
        code: ErrorCode = ErrorCode.BAD_ARGUMENTS,
    ) -> None:
        super().__init__(code, message, field=field, hint=hint)
        self.column = column


class Invocation(Struct, frozen=True, kw_only=True):
    """A flow with its checked arguments. `inputs` has only what was given."""

    flow: str
    band: Band | None = None
    inputs: dict[str, Any] = {}
    only: list[str] = []
    skip: list[str] = []
    exclude: list[str] = []


class Builtin(Struct, frozen=True, kw_only=True):
    """A command about podium itself, such as `/cancel ID`."""

    name: str
    argument: str | None = None


def parse(text: str, catalogue: Catalogue) -> Invocation | Builtin:
    """Read one command. Raises SlashError, and nothing else, whatever the text."""
    try:
        text.encode()
        head, *rest = words.split(text) or [Word("", 1)]
    except UnicodeEncodeError as error:
        raise SlashError("not valid Unicode", column=error.start + 1) from error
    except WordError as error:
        raise SlashError(str(error), column=error.column) from error
    if head.quoted or not head.text.startswith("/"):
        raise _no_command(text, head, catalogue)
    # `/han:code-review` is how a host with plugins writes it.
    name = head.text[1:].rpartition(":")[2]
    if name in BUILTINS:
        return _builtin(name, rest, end=len(text) + 1)
    if name not in catalogue.names:
        raise _unknown_command(name, head, catalogue)
    return _Reader(catalogue.get(name), end=len(text) + 1).read(rest)


def from_fields(flow: Flow, band: Band | None, fields: dict[str, Any]) -> Invocation:
    """Make the invocation of a launch by fields, under the same checks as a command.

    `question` feeds the flow's primary input; `only`, `skip` and `exclude` are as the flags; other
    keys are inputs by name, and a key that the flow does not know is left alone. Empty values count
    as not given.
    """
    inputs: dict[str, Any] = {}
    for declared in flow.inputs:
        for key in _keys(declared, flow):
            if not _blank(fields.get(key)):
                _put(inputs, declared, fields[key], field=f"input.{key}", column=None)
    checks: dict[str, Callable[[Any], list[str]]] = {
        "only": lambda value: _roles(flow, value),
        "skip": lambda value: _roles(flow, value),
        "exclude": path_list,
    }
    lists = {
        name: _checked(check, fields[name], f"input.{name}", None)
        for name, check in checks.items()
        if not _blank(fields.get(name))
    }
    invocation = Invocation(flow=flow.id, band=band, inputs=inputs, **lists)
    return _complete(invocation, flow, column=None)


def band_hint(word: str) -> str | None:
    """Return what to say of a word that names no file, as it may be a misspelt band; None when it
    is written as a path."""
    if not word.isalpha():
        return None
    known = f"bands: {', '.join(BAND_NAMES)}"
    close = _SIZES.get(word.lower()) or next(
        iter(get_close_matches(word.lower()[:MAX_SHOWN], BAND_NAMES, n=1)), None
    )
    return f"did you mean {close}? {known}" if close else f"or was it to be a band? {known}"


def roles_of(flow: Flow) -> list[str]:
    """Return the roles of a flow, which `--only` and `--skip` may name."""
    return list(dict.fromkeys(step.role for step in flow.steps if step.role is not None))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


class _Reader:
    """Collects the arguments of one command."""

    def __init__(self, flow: Flow, *, end: int) -> None:
        self._flow = flow
        self._end = end
        self._flags = {it.flag: it for it in flow.inputs if it.flag is not None}
        self._inputs: dict[str, Any] = {}
        self._lists: dict[str, list[str]] = {"--only": [], "--skip": [], "--exclude": []}

    def read(self, rest: list[Word]) -> Invocation:
        loose = self._read_flags(rest)
        band = self._band([word for word in loose if not word.quoted])
        bare = [word for word in loose if not word.quoted][band is not None :]
        for word in loose:
            if word.quoted:
                self._focus(word)
        self._places(bare)
        invocation = Invocation(
            flow=self._flow.id,
            band=band,
            inputs=self._inputs,
            only=self._lists["--only"],
            skip=self._lists["--skip"],
            exclude=self._lists["--exclude"],
        )
        return _complete(invocation, self._flow, column=self._end)

    def _read_flags(self, rest: list[Word]) -> list[Word]:
        """Take the flags and their values; return the other words."""
        loose: list[Word] = []
        waiting = iter(rest)
        for word in waiting:
            if not word.is_flag:
                loose.append(word)
            elif word.text in self._lists:
                self._extend_list(word, self._flag_value(word, waiting))
            elif word.text in self._flags:
                self._set_flag(word, self._flags[word.text], waiting)
            else:
                known = ", ".join(sorted([*self._flags, *self._lists]))
                raise SlashError(
                    f"unknown flag {_short(word.text)}",
                    column=word.column,
                    field=_short(word.text),
                    hint=f"/{self._flow.id} knows {known}",
                )
        return loose

    def _flag_value(self, word: Word, waiting: Any) -> str:
        if word.value is not None:
            return word.value
        following: Word | None = next(waiting, None)
        if following is None or following.is_flag:
            raise SlashError(f"{word.text} needs a value", column=word.column, field=word.text)
        return following.text

    def _extend_list(self, word: Word, value: str) -> None:
        if word.text == "--exclude":
            new = _checked(path_list, [value], word.text, word.column)
        else:
            named = [role for role in value.split(",") if role]
            new = _checked(lambda roles: _roles(self._flow, roles), named, word.text, word.column)
        have = self._lists[word.text]
        have.extend(item for item in new if item not in have)

    def _set_flag(self, word: Word, declared: Input, waiting: Any) -> None:
        value: Any = True
        if declared.type is not InputType.FLAG:
            value = self._flag_value(word, waiting)
        elif word.value is not None:
            raise SlashError(f"{word.text} takes no value", column=word.column, field=word.text)
        _put(self._inputs, declared, value, field=word.text, column=word.column)

    def _band(self, bare: list[Word]) -> Band | None:
        if not bare or not self._is_band(bare[0].text):
            return None
        if len(bare) > 1 and self._is_band(bare[1].text):
            raise SlashError(
                "the band is given twice",
                column=bare[1].column,
                field=bare[1].text,
                hint=f"write ./{bare[1].text} for a file of that name",
            )
        return Band(bare[0].text.lower())

    def _is_band(self, word: str) -> bool:
        plain = any(it.type in TEXTS and it.position is not None for it in self._flow.inputs)
        return (word if plain else word.lower()) in BAND_NAMES

    def _focus(self, word: Word) -> None:
        declared = next((it for it in self._flow.inputs if it.focus), None)
        if declared is None:
            raise SlashError(
                f"/{self._flow.id} takes no quoted text",
                column=word.column,
                field=_short(word.text),
                hint=usage(self._flow),
            )
        _put(self._inputs, declared, word.text, field=declared.name, column=word.column)

    def _places(self, bare: list[Word]) -> None:
        """Give the bare words to the positional inputs that no flag has set."""
        positional = [it for it in self._flow.inputs if it.position is not None]
        for declared in sorted(positional, key=lambda it: it.position or 0):
            if declared.flag is not None and declared.name in self._inputs:
                continue
            taken, bare = (bare, []) if declared.many else (bare[:1], bare[1:])
            if declared.many and declared.type in TEXTS and taken:
                taken = [Word(" ".join(word.text for word in taken), taken[0].column)]
            for word in taken:
                _put(self._inputs, declared, word.text, field=_short(word.text), column=word.column)
        if bare:
            raise SlashError(
                f"{_short(bare[0].text)!r} has no place in /{self._flow.id}",
                column=bare[0].column,
                field=_short(bare[0].text),
                hint=f"put text into quotes: {usage(self._flow)}",
            )


def _builtin(name: str, rest: list[Word], *, end: int) -> Builtin:
    if BUILTINS[name] == "one" and not rest:
        raise SlashError(f"/{name} needs the id of a run", column=end, field="id")
    allowed = 0 if BUILTINS[name] == "none" else 1
    if len(rest) > allowed:
        surplus = rest[allowed]
        raise SlashError(
            f"/{name} takes {'no' if allowed == 0 else 'one'} argument",
            column=surplus.column,
            field=_short(surplus.text),
        )
    return Builtin(name=name, argument=rest[0].text if rest else None)


def no_run(builtin: Builtin, catalogue: Catalogue) -> SlashError:
    """Return the refusal of a launch by a command that is about podium itself."""
    return SlashError(
        f"/{builtin.name} starts no run", column=1, field="command", hint=_offered(catalogue)
    )


def _no_command(text: str, head: Word, catalogue: Catalogue) -> SlashError:
    close = None if head.quoted else catalogue.closest(head.text)
    hint = f"did you mean {usage(catalogue.get(close))}" if close else _offered(catalogue)
    message = "a command starts with `/`" if text.strip() else "the command is empty"
    return SlashError(message, column=head.column, hint=hint)


def _offered(catalogue: Catalogue) -> str:
    named = ", ".join(f"/{name}" for name in catalogue.flows)
    return f"the flows: {named}" if named else "no flow is offered; the server's log says why"


def _unknown_command(name: str, head: Word, catalogue: Catalogue) -> SlashError:
    close = catalogue.closest(name)
    hint = f"did you mean {usage(catalogue.get(close))}" if close else _offered(catalogue)
    return SlashError(
        f"there is no command /{_short(name)}",
        column=head.column,
        field=_short(head.text),
        hint=hint,
        code=ErrorCode.UNKNOWN_FLOW,
    )


# ── what both ways of launching share ────────────────────────────────────────────────────────────


def _put(
    inputs: dict[str, Any], declared: Input, value: Any, *, field: str, column: int | None
) -> None:
    """Check a value and set it; one that takes many may be given in several parts."""
    checked = _checked(lambda given: check_value(declared, given), value, field, column)
    if declared.name not in inputs:
        inputs[declared.name] = checked
    elif isinstance(checked, list):
        inputs[declared.name] = _checked(
            lambda given: check_value(declared, given),
            [*inputs[declared.name], *checked],
            field,
            column,
        )
    elif column is not None or inputs[declared.name] != checked:
        raise SlashError(f"{declared.name} is given twice", column=column, field=field)


def _checked(check: Callable[[Any], Any], value: Any, field: str, column: int | None) -> Any:
    try:
        return check(value)
    except InputError as error:
        raise SlashError(f"{field} {error}", column=column, field=field) from error


def _roles(flow: Flow, value: Any) -> list[str]:
    known = roles_of(flow)
    named = [value] if isinstance(value, str) else value
    there = f"no role of /{flow.id}: there are {', '.join(known)}"
    if not isinstance(named, list) or not named:
        raise InputError(f"names {there}")
    for role in named:
        if role not in known:
            raise InputError(f"names `{_short(str(role))}`, {there}")
    return list(dict.fromkeys(named))


def _complete(invocation: Invocation, flow: Flow, *, column: int | None) -> Invocation:
    """Check what only the whole can tell."""
    if invocation.band is not None and invocation.band not in flow.bands:
        raise SlashError(
            f"/{flow.id} has no band {invocation.band.value}", column=column, field="band"
        )
    lacking = missing(flow, invocation.inputs)
    if lacking is not None:
        raise SlashError(
            f"/{flow.id} needs {lacking.name}: {lacking.summary}",
            column=column,
            field=lacking.name if column is not None else f"input.{lacking.name}",
            hint=usage(flow),
        )
    both = [role for role in invocation.only if role in invocation.skip]
    if both:
        raise SlashError(
            f"{both[0]} is both in --only and in --skip", column=column, field="--skip"
        )
    return invocation


def _keys(declared: Input, flow: Flow) -> list[str]:
    """The fields that set an input."""
    return [declared.name, "question"][: 1 + (declared.name == flow.primary_input)]


def _blank(value: Any) -> bool:
    return (
        value is None
        or value is False
        or value == []
        or (isinstance(value, str) and not value.strip())
    )


def _short(text: str) -> str:
    """What an error shows of a word."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
