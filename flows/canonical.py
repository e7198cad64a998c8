"""Slash commands, written: what `slash.py` reads back as the same invocation."""

from typing import Any

from flows import words
from flows.expressions import BAND_NAMES
from flows.model import Flow, Input, InputType
from flows.slash import Invocation


def canonical(invocation: Invocation, flow: Flow) -> str:
    """Return the command that means `invocation`: parsing it gives an equal one."""
    written = [f"/{flow.id}"]
    if invocation.band is not None:
        written.append(invocation.band.value)
    given = [it for it in flow.inputs if it.name in invocation.inputs]
    for declared in given:
        if declared.flag is not None and not declared.focus:
            written += _as_flags(declared, invocation.inputs[declared.name])
    written += [f"--only={role}" for role in invocation.only]
    written += [f"--skip={role}" for role in invocation.skip]
    written += [f"--exclude={words.plain_or_quoted(path)}" for path in invocation.exclude]
    by_place = [it for it in given if it.flag is None and not it.focus]
    for declared in sorted(by_place, key=lambda it: it.position or 0):
        written += [argument(value) for value in _listed(invocation.inputs[declared.name])]
    written += [words.quoted(invocation.inputs[it.name]) for it in given if it.focus]
    return " ".join(written)


def argument(value: str) -> str:
    """Write a word that stands by its place so that it reads neither as a band, a flag nor a quote.
    A band in capitals counts, too: some flows take it for one."""
    mistakable = value.startswith(("-", '"')) or value.lower() in BAND_NAMES
    return words.bare(f"./{value}" if mistakable else value)


def _as_flags(declared: Input, value: Any) -> list[str]:
    if declared.type is InputType.FLAG:
        return [str(declared.flag)]
    return [f"{declared.flag}={words.plain_or_quoted(item)}" for item in _listed(value)]


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
