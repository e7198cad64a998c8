"""Reading the settings: all sources, and all faults in one go."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from server.settings import guards
from server.settings.faults import Doubts, Fault, SettingsError
from server.settings.keys import Keys
from server.settings.sources import FLAGS, Sources
from server.settings.tables import Settings, default_file
from server.settings.values import Values

_DEPTH = 3
"""Parts of the longest key, as `endpoints.gpu.slots`."""


def load(
    flags: Mapping[str, Any], environment: Mapping[str, str], *, file: Path | None = None
) -> Settings:
    """Join the sources; raise SettingsError with every fault of every source.

    `file` None means the default place, where it may be missing. The faults of the file come first,
    in its order; then what is missing, the environment, the flags. A rule that needs a value which
    cannot be read is held against nothing.
    """
    path, doubts = file or default_file(), Doubts()
    sources = Sources(path, doubts)
    sources.take(flags, environment, needed=file is not None)
    values = Values(sources.of, str(path), doubts)
    settings = values.settings(sources.values)
    keys = Keys(path, environment, doubts)
    settings = keys.filled(settings)
    faults = [*sources.faults, *values.faults, *guards.faults(settings, doubts), *keys.faults]
    if faults:
        raise SettingsError(_in_order(faults, sources.in_file, str(path)))
    return settings


def _in_order(faults: list[Fault], in_file: Mapping[str, Any], file: str) -> list[Fault]:
    lines = {key: place for place, key in enumerate(_keys(in_file, _DEPTH))}

    def place(fault: Fault) -> tuple[int, int]:
        source = {file: 0, "the defaults": 1, FLAGS: 3}.get(fault.source, 2)
        key = fault.key
        while key and key not in lines:
            key = key.rpartition(".")[0]
        return source, lines.get(key, -1)

    return sorted(faults, key=place)


def _keys(values: Mapping[str, Any], depth: int, place: str = "") -> Iterator[str]:
    """Every dotted key in the order of the file, down to a depth."""
    for key, value in values.items():
        yield f"{place}{key}"
        if isinstance(value, dict) and depth > 1:
            yield from _keys(value, depth - 1, f"{place}{key}.")
