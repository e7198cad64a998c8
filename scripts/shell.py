"""Where things are, and running a command for a person: what went wrong is one line."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = BIN / "python"
CHILD_SECONDS = 30.0
"""How long an interrupted command may clean up."""


class Stop(Exception):
    """An expected failure: one line for the person, and the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def run(
    *command: str,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> None:
    """Run a command to its end; raises Stop with its exit code when it fails."""
    output = subprocess.DEVNULL if quiet else None
    shown = " ".join([Path(command[0]).name, *command[1:4]])
    try:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **(environment or {})}, stdout=output
        )
    except OSError as error:
        raise Stop(f"cannot run `{shown} …`: {error.strerror}; try `make clean install`") from error
    code = wait(process)
    if code:
        code = code if code > 0 else 128 - code
        raise Stop(f"`{shown} …` failed with code {code}; what it printed says why", code)


def wait(process: subprocess.Popen[bytes]) -> int:
    """The exit code. At Ctrl-C the command, which had it too, may clean up; not at a second."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CHILD_SECONDS)
        raise
    finally:
        if process.poll() is None:
            process.kill()


def runs(python: str | Path, script: str) -> bool:
    """Whether this Python ends the script well; a shim may stand for one that is not there."""
    try:
        done = subprocess.run([str(python), "-c", script], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def say(message: str) -> None:
    print(f"podium: {message}", file=sys.stderr, flush=True)


def failure_of(work: Callable[..., None], *arguments: object) -> Stop | None:
    """What failed, so that the next thing can be tried too."""
    try:
        work(*arguments)
    except Stop as failure:
        return failure
    return None
