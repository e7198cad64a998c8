"""Adding an endpoint to the settings file without losing a byte of it."""

import json
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from server.private_file import write_private


class Added(StrEnum):
    WRITTEN = "written"
    THERE = "there"
    """The file names this endpoint already."""
    BY_HAND = "by_hand"
    """The file names others, or cannot be read: a person has to decide."""


def section(name: str, fields: Mapping[str, str | bool]) -> str:
    """The table of an endpoint."""
    # A JSON string is a TOML string, but for what no name of a model has.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join([f"[endpoints.{name}]", *lines, ""])


def add_endpoint(path: Path, name: str, fields: Mapping[str, str | bool]) -> Added:
    """Append the table to the file, which only its owner can read afterwards.

    A file that names an endpoint already is left as it is, whatever it says. The change is whole
    or not there. Raises OSError.
    """
    path = path.resolve()
    old = _content(path)
    text = f"{old.rstrip()}\n\n" * bool(old.strip()) + section(name, fields)
    before, after = _parsed(old), _parsed(text)
    if before is not None and _named(before.get("endpoints"), fields):
        return Added.THERE
    if before is None or "endpoints" in before:
        return Added.BY_HAND
    if after != {**before, "endpoints": {name: dict(fields)}}:
        return Added.BY_HAND
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, text.encode(), durable=True)
    return Added.WRITTEN


def _content(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _named(endpoints: Any, fields: Mapping[str, str | bool]) -> bool:
    tables = endpoints.values() if isinstance(endpoints, dict) else []
    return any(isinstance(it, dict) and fields.items() <= it.items() for it in tables)
