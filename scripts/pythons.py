"""A Python that is new enough. This file must be understood by one that is not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from scripts.shell import runs

MIN_PYTHON = (3, 11)
NAMES = ("python3.13", "python3.12", "python3.11", "python3.14", "python3")
"""Of a Python that may be new enough; those that the tests run on come first."""


def newer_python() -> str | None:
    """A Python on PATH that is new enough and really runs."""
    script = f"import sys; sys.exit(sys.version_info < {MIN_PYTHON})"
    for name in NAMES:
        for folder in os.get_exec_path():
            candidate = Path(folder) / name
            if candidate.is_file() and runs(candidate, script):
                return str(candidate)
    return None


def require_python() -> None:
    """Go on in a Python that is new enough, or say what to install."""
    if os.name == "nt":
        sys.exit("podium: native Windows is not supported; use WSL2")
    if sys.version_info >= MIN_PYTHON:
        return
    found = newer_python()
    if found is None:
        version = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            f"podium: this is Python {version}; install 3.11 or newer"
            " (Debian 12: apt-get install python3 python3-venv), or name one: make PYTHON=…"
        )
    os.execv(found, [found, *sys.argv])  # noqa: S606 - a list of arguments, no shell
