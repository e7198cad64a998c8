"""Debian's packages that the tests and the containment of agents need."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from scripts.shell import PYTHON, Stop, failure_of, run, say

DEBIAN = {
    "bwrap": "bubblewrap", "chromium": "chromium", "git": "git", "nginx": "nginx",
    "openssl": "openssl",
}  # fmt: skip
POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks it before a package that was installed starts its service; 101 is no."""
FONTS = "fonts-dejavu-core"
VENV_PACKAGE = "python3-venv"


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
