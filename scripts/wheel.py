"""The wheel: what it must hold, and whether it works where nothing else of podium is."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from scripts.environment import LOCK
from scripts.shell import PYTHON, ROOT, Stop, run

ROOMS = ("protocol", "flows", "server")
SHIPPED = (
    *(f"{room}/**/*.py" for room in ROOMS),
    "flows/briefs/*.md",
    "flows/catalog/*.toml",
    "server/agents/qwen/**/*.json",
    "server/agents/qwen/*.mjs",
    "server/agents/qwen/etc/*",
    "server/stores/**/*.sql",
    "server/web/*.*",
)
"""What the wheel must hold."""
NO_AGENT = 4
"""podium's exit code where no agent can start."""


def try_out(place: Path) -> None:
    """Build it below `place`, install it there at the lock's versions, and run it."""
    run(str(PYTHON), "-m", "hatchling", "build", "-t", "wheel", "-d", str(place / "dist"))
    built = next((place / "dist").glob("*.whl"))
    check_contents(built)
    install_wheel(built, place)
    try_installed(place)


def check_contents(built: Path) -> None:
    """The wheel holds the three rooms with all their files, and nothing else."""
    names = set(zipfile.ZipFile(built).namelist())
    missing = {
        name
        for pattern in SHIPPED
        for name in (path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))
        if name not in names
    }
    if missing:
        raise Stop(f"the wheel lacks {' '.join(sorted(missing))}")
    strange = {name.split("/")[0] for name in names} - set(ROOMS)
    if any(not name.endswith(".dist-info") for name in strange):
        raise Stop(f"the wheel also holds {' '.join(sorted(strange))}")


def install_wheel(built: Path, place: Path) -> None:
    """Install what the wheel declares and no more, so that a dependency it forgot is missed."""
    versions = [line.rstrip(" \\") for line in LOCK.read_text().splitlines() if line[:1].isalnum()]
    constraints = place / "constraints.txt"
    constraints.write_text("\n".join(versions))
    run(sys.executable, "-m", "venv", str(place / "venv"))
    inside = str(place / "venv" / "bin" / "python")
    run(inside, "-m", "pip", "install", "-qq", "-c", str(constraints), str(built))


def try_installed(place: Path) -> None:
    """The installed wheel, with nothing of this checkout or of the user's settings in reach."""
    alone = {
        "OPENAI_BASE_URL": "",
        "PYTHONPATH": "",
        "XDG_CONFIG_HOME": str(place / "config"),
        "XDG_DATA_HOME": str(place / "data"),
    }
    podium = str(place / "venv" / "bin" / "podium")
    for words in (("--version",), ("flows",), ("flows", "code-review"), ("schema",), ("--help",)):
        run(podium, *words, cwd=place, environment=alone, quiet=True)
    try:
        run(podium, "doctor", cwd=place, environment=alone, quiet=True)
    except Stop as failure:
        if failure.code != NO_AGENT:
            raise
    script = "import protocol, flows, server\nfor m in (protocol, flows, server): print(m.__file__)"
    inside = [str(place / "venv" / "bin" / "python"), "-I", "-c", script]
    files = subprocess.run(inside, cwd=place, capture_output=True, text=True, check=False).stdout
    if files.count(f"{place}/venv/") != len(ROOMS):
        raise Stop(f"the wheel's packages do not come from where it was installed:\n{files}")
