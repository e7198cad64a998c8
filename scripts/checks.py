#!/usr/bin/env python3
"""What no tool checks for us: locks with hashes and no addresses, files that name no machine.

`make check` and `make lock` call this script. It prints every problem, each with what mends it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AGENT = ROOT / "server" / "agents" / "qwen"
PEERS = ROOT / "benchmarks" / "peers"
ADDRESS = re.compile(r"^\s*--(?:extra-)?index|://|^(?:-e |file:)|--find-links", re.MULTILINE)
REGISTRY = re.compile(r"://[\w.-]*(?:registry|pypi|pythonhosted|npm)")
"""The address of a package registry. Which one serves the packages is the machine's to say."""
EXACT = re.compile(r"\d+\.\d+\.\d+")


def problems() -> Iterator[str]:
    yield from python_lock("requirements.lock", "make lock")
    yield from python_lock("benchmarks/peers/peers.lock", "make lock")
    yield from npm_lock(AGENT)
    yield from npm_lock(PEERS)
    yield from named_machines()
    if "make test" not in (ROOT / ".ci" / "run").read_text():
        yield ".ci/run does not call `make test`"


def python_lock(name: str, mending: str) -> Iterator[str]:
    """Every pinned package has a hash, and nothing says where it comes from."""
    text = (ROOT / name).read_text()
    if ADDRESS.search(text):
        yield f"{name} holds an address; run `{mending}`"
    for entry in re.split(r"\n(?=\w)", text):
        if "--hash=sha256:" not in entry:
            yield f"{name} has no hash for {entry.split()[0]}; run `{mending}`"


def npm_lock(folder: Path) -> Iterator[str]:
    """A package is pinned to one version, and npm's lock has its hash and no address."""
    pins = json.loads((folder / "package.json").read_text())["dependencies"]
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    for name, pin in pins.items():
        if not EXACT.fullmatch(pin):
            yield f"package.json must pin {name} to one version, not {pin}"
        if packages.get(f"node_modules/{name}", {}).get("version") != pin:
            yield f"package-lock.json has another {name} than {pin}"
    for place, package in packages.items():
        if "resolved" in package:
            yield f"package-lock.json holds an address for {place}: remove its `resolved`"
        if place and "integrity" not in package:
            yield f"package-lock.json has no hash for {place}"


def named_machines() -> Iterator[str]:
    """No file names a package registry, this checkout or the home folder of who works on it."""
    # A folder directly under the root, such as a container's, is too common a word to look for.
    places = [str(place) for place in (ROOT, Path.home()) if len(place.parts) > 2]
    own = re.compile("|".join(rf"{re.escape(place)}(?![\w-])" for place in places) or r"(?!)")
    for name, text in texts():
        for number, line in enumerate(text.splitlines(), 1):
            if REGISTRY.search(line):
                yield f"{name}:{number} names a package registry"
            if own.search(line):
                yield f"{name}:{number} names a folder of this machine"


def texts() -> Iterator[tuple[str, str]]:
    """Every text file that git has or would add; none outside a git checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    for name in filter(None, listed.stdout.split("\0")):
        try:
            yield name, (ROOT / name).read_text("utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # an image; a file that is deleted and not yet committed; a link to a folder


def main() -> None:
    found = list(problems())
    for problem in found:
        print(f"podium: {problem}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
