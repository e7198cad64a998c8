"""How a value of a source becomes a setting: key by key, so that no fault hides the next."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct, inspect
from msgspec.structs import FieldInfo

from server.settings.faults import SHOWN, Doubts, Fault, near, shown
from server.settings.tables import SECTIONS, TABLES, Name, Settings, source_of

S = TypeVar("S", bound=Struct)
Key = tuple[str, ...]

_ENTRY = re.compile(r" - at `\$\[(\d+)\]`$")


class Values:
    """The values of all sources, and what is said of them."""

    def __init__(self, sources: Mapping[str, str], file: str, doubts: Doubts) -> None:
        """`file` is the source that has types; a variable and a flag are text."""
        self.faults: list[Fault] = []
        self._sources = dict(sources)
        self._file = file
        self._doubts = doubts
        self._guesses = SHOWN
        self._listed: set[type[Struct]] = set()
        """Kinds of tables whose keys are listed already."""

    def settings(self, values: Mapping[str, Any]) -> Settings:
        """The settings. What cannot be used has its default, is a fault and in doubt."""
        return Settings(**self._fields(Settings, values, ()), sources=self._sources)

    def _fields(self, kind: type[Struct], values: Mapping[str, Any], place: Key) -> dict[str, Any]:
        """The fields of `values` that are right; an empty text for what is required and is not."""
        known = fields_of(kind)
        required = [key for key, field in known.items() if field.required]
        for key in required:
            if key not in values:
                self._note((*place, key), "is missing")
        good: dict[str, Any] = dict.fromkeys(required, "")
        for key, value in values.items():
            if key not in known:
                self._unknown((*place, key), value, kind)
                continue
            found = self._field(known[key], value, (*place, key))
            if found is not None:
                good[key] = found
        return good

    def _field(self, field: FieldInfo, value: Any, key: Key) -> Any:
        """The value of a known key; None when it cannot be used."""
        match key:
            case (name,) if name in TABLES:
                return self._table(TABLES[name], value, name)
            case (name,) if name in SECTIONS:
                return self._section(SECTIONS[name], value, name)
        if isinstance(value, dict) and get_origin(field.type) is dict:
            return self._entries(get_args(field.type)[1], value, key)
        return self._value(field.type, value, key)

    def _table(self, kind: type[S], values: Any, key: str) -> dict[str, S]:
        if not isinstance(values, dict):
            self._note((key,), f"is no table; write [{key}.NAME]")
            return {}
        found: dict[str, S] = {}
        for name, entry in values.items():
            fault = _fault_of(Name, name, strict=True)
            if fault:
                self._say((key, name), fault)
            if isinstance(entry, dict):
                found[name] = kind(**self._fields(kind, entry, (key, name)))
            else:
                self._note((key, name), f"is no table; write [{key}.{shown(name)}]")
        return found

    def _section(self, kind: type[S], values: Any, key: str) -> S | None:
        if not isinstance(values, dict):
            self._note((key,), f"is no table; write [{key}]")
            return None
        return kind(**self._fields(kind, values, (key,)))

    def _entries(self, kind: Any, values: Mapping[str, Any], place: Key) -> dict[str, Any]:
        found = {name: self._value(kind, value, (*place, name)) for name, value in values.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _value(self, kind: Any, value: Any, key: Key) -> Any:
        """The value as its setting has it; None when it cannot be used."""
        strict = self._source(key) == self._file
        fault = _fault_of(kind, value, strict=strict)
        if fault is None:
            return msgspec.convert(value, kind, strict=strict)
        self._note(key, fault)
        return None

    def _unknown(self, key: Key, value: Any, kind: type[Struct]) -> None:
        """So many guesses as are shown: they take time."""
        # `[endpoint.gpu]` is no `endpoint` in the wrong table.
        home = None if isinstance(value, dict) else home_of(key[-1])
        self._guesses -= 1
        guess = near(key[-1], fields_of(kind)) if self._guesses >= 0 else None
        if home and key[-1] in fields_of(Settings):
            self._doubts.add(key[-1])  # in the wrong table, and meant all the same
        elif guess:
            self._doubts.add(*key[:-1], guess)
        self._say(key, f"unknown key{self._way_out(kind, guess, home)}")

    def _way_out(self, kind: type[Struct], guess: str | None, home: str | None) -> str:
        if home:
            return f"; it belongs {home}"
        if guess:
            return f"; did you mean `{guess}`?"
        if kind in self._listed:
            return ""
        self._listed.add(kind)
        return f" (known: {', '.join(sorted(fields_of(kind)))})"

    def _note(self, key: Key, says: str) -> None:
        self._doubts.add(*key)
        self._say(key, says)

    def _say(self, key: Key, says: str) -> None:
        self.faults.append(Fault(self._source(key), ".".join(part or '""' for part in key), says))

    def _source(self, key: Key) -> str:
        return source_of(self._sources, ".".join(key))


@cache
def fields_of(kind: type[Struct]) -> dict[str, FieldInfo]:
    """The keys of a table."""
    return {it.name: it for it in msgspec.structs.fields(kind) if it.name != "sources"}


def home_of(key: str) -> str | None:
    """Where a key belongs."""
    if key in fields_of(Settings):
        return "above the first [table]"
    for table, kind in (SECTIONS | TABLES).items():
        if key in fields_of(kind):
            return f"into [{table}]" if table in SECTIONS else f"into [{table}.NAME]"
    return None


# ── one value ────────────────────────────────────────────────────────────────────────────────────


def _fault_of(kind: Any, value: Any, *, strict: bool) -> str | None:
    """Why a value cannot be used and what could; None when it can. No text of a value is in it but
    that of a choice."""
    wanted = next((it for it in get_args(kind) if type(None) in get_args(kind)), kind)
    try:
        msgspec.convert(value, wanted, strict=strict)
    except msgspec.ValidationError as error:
        says = str(error)
        entry = _ENTRY.search(says)
        info = inspect.type_info(wanted)
        item = info.item_type if entry and isinstance(info, inspect.ListType) else info
        told = _described(item) if " matching regex " in says else None
        where = f"entry {int(entry[1]) + 1}: " if entry else ""
        allowed = _choices(wanted) or _allowed(item)
        return where + (told or shown(_ENTRY.sub("", says)) + allowed)
    return None


def _described(info: inspect.Type) -> str | None:
    """What stands in place of a pattern."""
    if isinstance(info, inspect.Metadata):
        return (info.extra_json_schema or {}).get("description")
    return None


def _choices(kind: Any) -> str:
    """In the order in which they were written, which the type info does not keep."""
    return f"; one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else ""


def _allowed(info: inspect.Type) -> str:
    match info:
        case inspect.BoolType():
            return "; true or false"
        case inspect.IntType(ge=int(least), le=int(most)):
            return f"; {least} to {most}"
        case inspect.IntType(ge=int(least)):
            return f"; {least} or more"
        case inspect.FloatType(gt=float() | int() as least, le=float() | int() as most):
            return f"; more than {least:g}, at most {most:g}"
    return ""
