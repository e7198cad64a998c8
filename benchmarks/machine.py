"""The machine and the versions that figures were measured on."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from benchmarks.entrants import PEERS

OURS = ("starlette", "uvicorn", "websockets", "msgspec", "uvloop")
THEIRS = ("python-socketio", "channels", "picows")


class Machine(NamedTuple):
    at: str
    cores: int
    processor: str
    system: str
    load: float
    """Of the minute before: what else was going on."""
    versions: dict[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.at}: {self.cores} cores ({self.processor}), {self.system}, load"
            f" {self.load:.1f}; {versions}"
        )


def seen() -> Machine:
    return Machine(
        datetime.now(UTC).strftime("%Y-%m-%d"),
        len(os.sched_getaffinity(0)),
        processor(),
        f"Linux {platform.release().split('-')[0]}",
        os.getloadavg()[0],
        {"Python": platform.python_version(), **own(), **peers()},
    )


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def own() -> dict[str, str]:
    found = {}
    for name in OURS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peers() -> dict[str, str]:
    """Of those that `make bench-peers` has installed."""
    found = {}
    package = PEERS / "node" / "node_modules" / "ws" / "package.json"
    if package.exists():
        found["ws"] = json.loads(package.read_text())["version"]
    script = "import sys; from importlib.metadata import version as v; print(v(sys.argv[1]))"
    for name in THEIRS:
        words = [str(PEERS / "venv" / "bin" / "python"), "-c", script, name]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            found[name] = done.stdout.strip()
    return found
