#!/usr/bin/env python3
"""Everything a developer does with this repository, with nothing but Python's standard library.

`make TARGET` calls this script, and `python3 scripts/dev.py TARGET` works where make is missing.
"""

# An older Python must get as far as `main`, which says what is needed: annotations stay texts.
from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where this is run as a file

from scripts import environment, wheel
from scripts.agent import AGENT_FILES, install_version, node_folder, npm
from scripts.debian import install_debian_packages, require_debian_packages
from scripts.environment import LOCK
from scripts.pythons import require_python
from scripts.shell import BIN, PYTHON, ROOT, VENV, Stop, failure_of, run, runs, say

BUILD = ROOT / "build"
PEERS = ROOT / "benchmarks" / "peers"
PEER_LOCK = PEERS / "peers.lock"
INSTALLED_PEERS = BUILD / "peers"
CHECKS = ROOT / "scripts" / "checks.py"
SHOWN = ("server/agents/copies/cache.py", "server/agents/copies/repository.py")
"""What `run` reviews: the demo model reads three files at most, and here it finds something."""
EXACT = re.compile(r"\d+\.\d+\.\d+")
ALL_TESTS = ("--cov", "--cov-report=term", "-n", "2", "--dist", "worksteal")
"""Two at a time: many a test waits for a process or a clock, and more of them would be in each
other's way. A few that are named run one by one, and print what they print."""
CONTRACT = ("-m", "real_agent", "tests/contract", "--ignore=tests/contract/test_bump_qwen.py")
"""The measurement compares with the pinned version by itself, and prints more."""
EPILOG = """\
what follows TARGET is passed on:
  python3 scripts/dev.py test tests/flows -k slash
  make test ARGS="tests/flows -k slash"
  make lock ARGS=--upgrade
  make bump-qwen VERSION=0.24.4

environment:
  PODIUM_SKIP_APT=1  install none of Debian's packages
  PODIUM_SOAK_HOURS=8
                     how long the longest of `soak` goes on
  CI=true            `test` refuses to start without Chromium, bubblewrap and nginx
  PODIUM_NO_SKIPS=1  a skipped test is a failed one"""


def install(arguments: Sequence[str]) -> None:
    """set up .venv with locked packages, the pinned agent and Debian's packages"""
    install_debian_packages()
    environment.install()


def demonstrate(arguments: Sequence[str]) -> None:
    """review two files of this repository with the real agent; on a terminal, go on serving"""
    install([])
    options = ["--project", str(ROOT), "--demo-if-unconfigured"]
    if sys.stdin.isatty() and sys.stdout.isatty():
        options.append("--keep-serving")
    elif "--keep-serving" not in arguments:
        say("without a terminal nothing is served afterwards; ARGS=--keep-serving does it")
    podium = str(BIN / "podium")
    command = [podium, "run", f"/code-review small {' '.join(SHOWN)}", *options, *arguments]
    os.execv(podium, command)  # noqa: S606 - a list of arguments, no shell


def test(arguments: Sequence[str]) -> None:
    """run all tests but the long ones; arguments go to pytest"""
    install([])
    if os.environ.get("CI"):
        require_debian_packages()
    run(str(PYTHON), "-m", "pytest", *(arguments or ALL_TESTS))


def soak(arguments: Sequence[str]) -> None:
    """run the long tests: minutes to hours"""
    install([])
    run(str(PYTHON), "-m", "pytest", "-m", "soak", "--timeout=0", *arguments)


def check(arguments: Sequence[str]) -> None:
    """format, lint, types, directions between the rooms, clean locks"""
    install([])
    run(str(BIN / "ruff"), "format", "--check", ".")
    run(str(BIN / "ruff"), "check", ".")
    run(str(BIN / "mypy"))
    run(str(BIN / "lint-imports"))
    run(str(PYTHON), str(CHECKS))
    say("all checks passed")


def try_wheel(arguments: Sequence[str]) -> None:
    """build the wheel, install it elsewhere at the lock's versions, and try it there"""
    install([])
    with tempfile.TemporaryDirectory(prefix="podium-wheel-") as folder:
        wheel.try_out(Path(folder))
    say("the wheel works")


def bench(arguments: Sequence[str]) -> None:
    """measure; --help says what there is"""
    install([])
    run(str(PYTHON), "-m", "benchmarks", *arguments)


def bench_peers(arguments: Sequence[str]) -> None:
    """install what the benchmarks compare with, pinned, below build/"""
    install([])
    node = INSTALLED_PEERS / "node"
    node.mkdir(parents=True, exist_ok=True)
    for name in AGENT_FILES:
        shutil.copy(PEERS / name, node / name)
    say("installing Node's peers")
    npm(VENV, node, "ci")
    python = INSTALLED_PEERS / "venv" / "bin" / "python"
    if not runs(python, "import pip"):
        run(sys.executable, "-m", "venv", "--clear", str(python.parents[1]))
    say("installing Python's peers")
    hashed = ("--no-deps", "--require-hashes", "-r", str(PEER_LOCK))
    run(str(python), "-m", "pip", "--disable-pip-version-check", "install", *hashed, "-qq")
    say("`make bench` measures them, too, from now on")


def lock(arguments: Sequence[str]) -> None:
    """resolve the dependencies anew, into requirements.lock and the peers' lock"""
    # Of what is installed it needs uv alone, so it also mends a lock that is lost or broken.
    if not (BIN / "uv").exists():
        install([])
    peers = PEERS / "peers.in"
    for source, locked in ((["pyproject.toml", "--all-extras"], LOCK), ([str(peers)], PEER_LOCK)):
        run(
            str(BIN / "uv"), "pip", "compile", *source, "--universal",
            "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header",
            "--no-emit-index-url", "--no-emit-find-links", "--quiet", "-o", str(locked), *arguments,
        )  # fmt: skip
    run(str(PYTHON), str(CHECKS))


def bump_qwen(arguments: Sequence[str]) -> None:
    """say what another qwen does differently: make bump-qwen VERSION=x"""
    install([])
    version, *rest = arguments or [""]
    if not EXACT.fullmatch(version):
        raise Stop(f"which version? make bump-qwen VERSION=0.24.4 (not {version!r})")
    with tempfile.TemporaryDirectory(prefix="podium-qwen-") as folder:
        place = Path(folder)
        package = install_version(VENV, place, version)
        told = [
            it
            for it in (
                failure_of(measure_qwen, version, package),
                failure_of(run_contract, place, rest),
            )
            if it is not None
        ]
    if told:
        raise Stop(f"qwen {version} is not like the pinned one: {'; '.join(map(str, told))}")
    say(f"qwen {version} keeps the contract")


def clean(arguments: Sequence[str]) -> None:
    """remove .venv, every cache, and what was built or measured"""
    for name in (".venv", ".hypothesis", "build", "dist"):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for cache in ROOT.glob(".*_cache"):
        shutil.rmtree(cache, ignore_errors=True)
    for figures in (*ROOT.glob(".coverage"), *ROOT.glob(".coverage.*")):
        figures.unlink()


TARGETS = {
    "install": install,
    "run": demonstrate,
    "test": test,
    "check": check,
    "wheel": try_wheel,
    "bench": bench,
    "bench-peers": bench_peers,
    "soak": soak,
    "bump-qwen": bump_qwen,
    "lock": lock,
    "clean": clean,
}
BARE = ("install", "check", "wheel", "bench-peers", "clean")
"""These pass nothing on: what follows them is a mistake, to be told and not dropped."""


def measure_qwen(version: str, package: Path) -> None:
    """Start it against a scripted model, and print what differs; fails when something does."""
    node = str(node_folder(VENV) / "node")
    written = str(BUILD / f"qwen-{version}.json")
    where = ("--node", node, "--cli", str(package / "cli.js"), "--write", written)
    run(str(PYTHON), "-m", "scripts.bump_qwen", version, *where)


def run_contract(place: Path, arguments: Sequence[str]) -> None:
    """The contract tests with the qwen of that folder. Only these tests know the variable."""
    told = {"PODIUM_TEST_QWEN": str(place)}
    run(str(PYTHON), "-m", "pytest", "-q", *CONTRACT, *arguments, environment=told)


def main() -> None:
    require_python()
    width = max(map(len, TARGETS))
    targets = "\n".join(f"  {name:<{width}}  {call.__doc__}" for name, call in TARGETS.items())
    parser = argparse.ArgumentParser(
        description="Work on podium.",
        epilog=f"targets:\n{targets}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=TARGETS, metavar="TARGET")
    parsed, rest = parser.parse_known_args()
    arguments = [argument for argument in rest if argument != "--"]
    if arguments and parsed.target in BARE:
        parser.error(f"{parsed.target} takes no arguments, and was given {' '.join(arguments)}")
    try:
        TARGETS[parsed.target](arguments)
    except Stop as failure:
        say(str(failure))
        sys.exit(failure.code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
