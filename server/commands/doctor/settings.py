"""What `podium doctor` says of the settings: where they are, or every fault; and variables that
were meant for podium and are not read."""

from collections.abc import Mapping
from pathlib import Path

from server.commands.doctor.diagnosis import Diagnosis, warning
from server.settings import SettingsError
from server.settings.sources import misspelt

NAME = "settings"


def read(file: Path, environment: Mapping[str, str]) -> list[Diagnosis]:
    """Of settings without a fault. Blocks."""
    says = str(file) if file.exists() else f"the defaults; there is no {file}"
    return [Diagnosis(NAME, True, says), *_not_read(environment)]


def refused(error: SettingsError, environment: Mapping[str, str]) -> list[Diagnosis]:
    """Of settings that cannot be used: a line for each fault."""
    faults = [Diagnosis(NAME, False, problem) for problem in error.problems]
    rest = warning("the rest", "is looked at when the settings can be used")
    return [*faults, *_not_read(environment), rest]


def _not_read(environment: Mapping[str, str]) -> list[Diagnosis]:
    return [
        warning("environment", f"{name} is not read", way_out)
        for name, way_out in misspelt(environment)
    ]
