"""The .venv with the locked packages: .venv/bin is where every other tool comes from."""

from __future__ import annotations

import hashlib
import importlib.util
import sys

from scripts.agent import AGENT, AGENT_FILES, install_agent
from scripts.debian import VENV_PACKAGE
from scripts.shell import BIN, PYTHON, ROOT, VENV, Stop, run, runs, say

LOCK = ROOT / "requirements.lock"
STAMP = VENV / ".podium-installed"


def install() -> None:
    """Set it up, with the pinned agent in it, unless it is already as it must be."""
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    STAMP.unlink(missing_ok=True)  # an install that is cut short counts for nothing
    make_venv()
    say("installing the locked packages (about a minute the first time)")
    # The lock names everything: left to itself, pip looks at newer versions and refuses them.
    pip("install", "--no-deps", "--require-hashes", "-r", str(LOCK))
    pip("install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    pip("check")
    install_agent(VENV)
    STAMP.write_text(wanted)
    say(f"installed: {BIN / 'podium'}")


def fingerprint() -> str:
    """Changes when something that `install` reads does."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (LOCK, ROOT / "pyproject.toml", *(AGENT / name for name in AGENT_FILES)):
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            name = path.relative_to(ROOT)
            raise Stop(f"cannot read {name}: {error.strerror}; `git restore {name}`") from error
    return digest.hexdigest()


def make_venv() -> None:
    """A .venv whose pip works: the one that is there, else a new one."""
    if runs(PYTHON, "import pip"):
        return
    if importlib.util.find_spec("ensurepip") is None:
        raise Stop(f"this Python cannot make a venv: apt-get install {VENV_PACKAGE}")
    say("creating .venv")
    # One that is there is half made, or its Python was replaced.
    run(sys.executable, "-m", "venv", "--clear", str(VENV))


def pip(*arguments: str) -> None:
    # Twice quiet leaves the errors, and drops a warning for each package of each extra index.
    run(str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments, "-qq")
