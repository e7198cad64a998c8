"""The containment of one attempt: values in, a command line out.

The agent sees the pinned copy at its own path, its program and its attempt's files below /podium,
the system's programs and libraries, and nothing else of the host. All of that is read-only; what it
may write lies in memory and has a bound. Each attempt looks the same from inside, but for the copy,
so that the agents of a run share the beginning of their prompts.

`ladder.examine` finds what of it a host allows.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from protocol.resources import Containment, Level
from server.agents.containment import seccomp
from server.agents.containment.limits import MIB, Limits, limited
from server.agents.containment.orphans import Recorded
from server.agents.installation import Installation
from server.agents.invocation import Places

# --- how it looks from inside -------------------------------------------------------------------

PLACES = Places(Path("/podium"))
"""The attempt's files: settings and schema to read, `home` to write, `cwd` empty."""
NODE = PLACES.directory / "node"
PACKAGE = PLACES.directory / "qwen"
PRELOAD = PLACES.directory / "preload.mjs"
RELAY = PLACES.directory / "relay.sock"
TMP = PLACES.directory / "tmp"
PORT = 4141
BASE_URL = f"http://127.0.0.1:{PORT}/v1"
"""Where the relay answers inside, at the level `network`."""
USER = "1000"
IN_MEMORY = {PLACES.home: 64, TMP: 64, Path("/dev/shm"): 1}  # noqa: S108 - the agent's own
"""What can be written inside, with its bound in MiB."""
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin")
"""Only /usr where the others are links into it; a bind follows the link, so both come out right."""

SHIPPED = Path(__file__).parent.parent / "qwen"
SELF_TEST = "PODIUM_SELF_TEST"
"""The variable that tells preload.mjs what to try; it is gone before the agent's program starts."""
SELF_TEST_SECONDS = 10.0
ESCAPED, UNREPORTED = 86, 87
"""Exit codes of preload.mjs: what must fail succeeded; the relay did not take the report."""


class Found(Struct, frozen=True, kw_only=True):
    """What of the containment this host allows, each level having been tried."""

    levels: tuple[Level, ...] = ()
    """In the order of `Level`."""
    bwrap: Path | None = None
    """None when there is no containment at all."""
    version: str = ""
    reason: str | None = None
    """Why a level is missing; None when none is."""
    hint: str | None = None
    """What would bring it."""
    machine: str = ""
    """As `platform.machine()` names it; one that is not known has no filter of system calls."""
    options: frozenset[str] = frozenset()
    """Of those that not every bubblewrap has, the ones that are used."""
    proc: bool = True
    """Whether /proc can be mounted; the agent does without."""

    @property
    def contained(self) -> Containment:
        return Containment.BUBBLEWRAP if self.levels else Containment.NONE

    @property
    def complete(self) -> bool:
        return self.levels == tuple(Level)


class Cage(Struct, frozen=True, kw_only=True):
    """What one attempt's containment is made of: paths of the host."""

    node: Path
    """The program itself: a link or a wrapper script would lead out of the cage."""
    package: Path
    """The folder of the agent's program."""
    tree: Path
    settings: Path
    schema: Path
    relay: Path
    """The relay's unix socket."""
    canary: int
    """A TCP port that answers on the host's loopback and must not inside: the relay's own."""
    hidden: tuple[Path, ...]
    """Files of the host that must not be seen inside."""
    server: Recorded
    """A process of the host that must be neither seen nor signalled."""
    limits: Limits


class Launch(NamedTuple):
    """What `AgentProcess` starts."""

    program: Path
    """What must be there to be run."""
    command: list[str]
    environment: dict[str, str]
    guarded: bool
    """Nothing of the system ends the tree with the server: the guardian must."""
    contained: bool
    filter: bytes | None
    """Of system calls, for bubblewrap to load."""


def inside(installed: Installation) -> Installation:
    """The agent's program as it is found inside."""
    return Installation(NODE, PACKAGE / installed.cli.name, installed.version)


def confined(
    command: Sequence[str], environment: Mapping[str, str], *, found: Found, cage: Cage
) -> Launch:
    """An agent's command, as seen from inside and beginning with NODE, in what `found` allows.

    The environment is complete, and handed over as bubblewrap's own: on a command line every user
    of the host could read it.
    """
    node, *arguments = command
    if found.bwrap is None:
        raise ValueError("there is no containment on this host")
    tested = [node, "--import", str(PRELOAD), *arguments]
    bounded = limited(tested, cage.limits, tasks=True)
    return Launch(
        found.bwrap,
        [str(found.bwrap), *_apart(found), *_files(found, cage), "--", *bounded],
        {**environment, "TMPDIR": str(TMP), SELF_TEST: _self_test(found, cage)},
        guarded=Level.PROCESSES not in found.levels,
        contained=True,
        filter=seccomp.program(found.machine),
    )


def unconfined(command: Sequence[str], environment: Mapping[str, str], limits: Limits) -> Launch:
    """The same without containment: the kernel's limits and the guardian are left."""
    bounded = limited(command, limits, tasks=False)
    program = Path(command[0])
    return Launch(program, bounded, dict(environment), guarded=True, contained=False, filter=None)


def _apart(found: Found) -> list[str]:
    """What is not shared with the host. Ends with the server: see `spawn`."""
    namespaces = {Level.PROCESSES: "--unshare-pid", Level.NETWORK: "--unshare-net"}
    return [
        "--die-with-parent",
        "--new-session",
        "--unshare-user",
        # An ordinary user inside, also when the server is root's.
        "--uid", USER,
        "--gid", USER,
        *(["--disable-userns"] if "--disable-userns" in found.options else []),
        "--cap-drop", "ALL",
        "--unshare-ipc",
        "--unshare-uts",
        "--hostname", "podium",
        "--unshare-cgroup-try",
        *(flag for level, flag in namespaces.items() if level in found.levels),
    ]  # fmt: skip


def _files(found: Found, cage: Cage) -> list[str]:
    """The whole of what there is, in the order in which it is mounted."""
    binds = {
        SHIPPED / "etc": Path("/etc"),
        cage.node: NODE,
        cage.package: PACKAGE,
        SHIPPED / "preload.mjs": PRELOAD,
        cage.settings: PLACES.settings,
        cage.schema: PLACES.schema,
        cage.relay: RELAY,
        # Last, so that nothing covers it.
        cage.tree: cage.tree,
    }
    words = [word for place in SYSTEM for word in ("--ro-bind-try", place, place)]
    words += ["--dev", "/dev", "--proc" if found.proc else "--dir", "/proc"]
    # To the kernel a server of root's has root's agents, who could write the settings in /proc/sys.
    closed = ["/proc", "/dev", "/"] if found.proc else ["/dev", "/"]
    for place, mib in IN_MEMORY.items():
        bound = ["--size", str(mib * MIB)] if "--size" in found.options else []
        words += [*bound, "--tmpfs", str(place)]
    if not cage.tree.is_relative_to("/tmp"):  # noqa: S108 - else the copy's own parent is there
        words += ["--symlink", str(TMP), "/tmp"]  # noqa: S108 - inside
    words += ["--dir", str(PLACES.cwd)]
    for outside, inside in binds.items():
        words += ["--ro-bind", str(outside), str(inside)]
    words += [word for place in closed for word in ("--remount-ro", place)]
    return [*words, "--chdir", str(PLACES.cwd)]


def _self_test(found: Found, cage: Cage) -> str:
    """What preload.mjs tries, and where it tells what came of it."""
    order = {
        "levels": list(found.levels),
        "tree": str(cage.tree),
        "hidden": [str(place) for place in cage.hidden],
        "canary": cage.canary,
        "pid": cage.server.pid,
        "started": cage.server.started,
        "relay": str(RELAY),
        "port": PORT if Level.NETWORK in found.levels else None,
        "seconds": SELF_TEST_SECONDS,
    }
    return msgspec.json.encode(order).decode()
