"""What one agent's process tree may take of the machine.

The kernel bounds each process (`limited`); a look each second bounds the tree (`watch`), and names
the limit. Neither is enough alone: a limit of the kernel is no sum, and a second is long.
"""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from server.agents.containment.guardian import stat
from server.agents.reasons import FailureReason, failure
from server.ports import AgentFailure, Clock

WATCH_SECONDS = 1.0
MIB = 1024 * 1024
RESERVED_MIB = 4 * 1024
"""Room that V8 sets aside and does not use: measured 0.55 GiB for the program and as much for each
of its workers. The kernel counts it as data, so its limit is no less than this above ours."""
TASKS_PER_PROCESS = 16
"""The kernel counts threads, of which node has about a dozen."""
KILL_GRACE = 5
"""CPU seconds between the signal that says why and the one that ends."""
FILES = 4_096
INODE_BYTES = 1_024
"""What the kernel keeps of a file in memory beside its content, with its name."""
OUT_OF_MEMORY = ("heap out of memory", "process out of memory", "llocation failed")
"""V8's last words, before it ends itself with SIGABRT or SIGTRAP."""

# A limit of the host that is lower already stays: it cannot be raised, and need not be. The number
# of tasks is -p for dash and busybox, and -u for bash, whose -p is another and fails.
_SCRIPT = """\
ulimit -c 0; ulimit -f "$1"; ulimit -S -t "$2"; ulimit -H -t "$3"; ulimit -d "$4"; ulimit -n "$5"
[ "$6" = 0 ] || ulimit -p "$6" 2>/dev/null || ulimit -u "$6"
shift 6; unset PWD OLDPWD SHLVL; exec "$@"
"""


class Limits(Struct, frozen=True, kw_only=True):
    """Of one attempt: its whole tree, but for `file_mib`."""

    memory_mib: int = 2_048
    processes: int = 64
    cpu_seconds: int = 1_800
    file_mib: int = 64
    """Of each file that it writes; its stdout and stderr are such files."""


class Load(NamedTuple):
    """What a tree takes."""

    memory: int
    """Bytes, what is shared being counted once."""
    processes: int
    cpu_seconds: float
    output: int
    """Bytes of the larger of its two output files."""


def limited(command: Sequence[str], limits: Limits, *, tasks: bool) -> list[str]:
    """The command under the kernel's limits of each process.

    `tasks`: also bound how many there are. Only in a user namespace of its own: elsewhere the
    kernel counts every process of the user, and another program of theirs would stop the agent.
    """
    numbers = (
        limits.file_mib * MIB // 512,
        limits.cpu_seconds,
        limits.cpu_seconds + KILL_GRACE,
        (limits.memory_mib + RESERVED_MIB) * 1024,
        FILES,
        limits.processes * TASKS_PER_PROCESS if tasks else 0,
    )
    return ["/bin/sh", "-c", _SCRIPT, "limits", *map(str, numbers), *command]


def judge(load: Load, limits: Limits) -> AgentFailure | None:
    """The limit that the tree passed, if it did. The same attempt would pass it again."""
    if load.memory > limits.memory_mib * MIB:
        return _memory(limits)
    if load.processes > limits.processes:
        message = f"the agent had more than {limits.processes} processes"
        return failure(FailureReason.PROCESS_LIMIT, message)
    if load.cpu_seconds > limits.cpu_seconds:
        return _cpu(limits)
    if load.output >= limits.file_mib * MIB:
        return _output(limits)
    return None


def named(exit_code: int | None, stderr: str, limits: Limits) -> AgentFailure | None:
    """The limit of the kernel that ended a process, by its exit code and last words; None when
    it was none. Negative codes are signals."""
    if exit_code == -signal.SIGXCPU:
        return _cpu(limits)
    if exit_code == -signal.SIGXFSZ:
        return _output(limits)
    if exit_code in (-signal.SIGABRT, -signal.SIGTRAP) and ran_out_of_memory(stderr):
        return _memory(limits)
    return None


def ran_out_of_memory(stderr: str) -> bool:
    """Whether V8's last words are that its memory is full."""
    return any(words in stderr for words in OUT_OF_MEMORY)


def overfull(outputs: Sequence[Path], limits: Limits) -> AgentFailure | None:
    """Whether a process that ended had filled an output file: the kernel lets nobody write more,
    and few programs end for that reason alone."""
    full = max(map(_size, outputs), default=0) >= limits.file_mib * MIB
    return _output(limits) if full else None


def _memory(limits: Limits) -> AgentFailure:
    message = f"the agent took more than {limits.memory_mib} MiB of memory"
    return failure(FailureReason.MEMORY_LIMIT, message)


def _cpu(limits: Limits) -> AgentFailure:
    message = f"the agent used more than {limits.cpu_seconds} s of CPU time"
    return failure(FailureReason.CPU_LIMIT, message)


def _output(limits: Limits) -> AgentFailure:
    message = f"the agent wrote more than {limits.file_mib} MiB"
    return failure(FailureReason.OUTPUT_LIMIT, message)


# --- the watch ----------------------------------------------------------------------------------


async def watch(
    root: int, limits: Limits, *, clock: Clock, outputs: Sequence[Path], mounts: Sequence[Path]
) -> AgentFailure:
    """Look at a tree each second; returns when it passes a limit, and never before.

    `mounts`: places in the tree's own view that keep files in memory, which count as such.
    """
    while True:
        await clock.sleep(WATCH_SECONDS)
        # In the tree's last second it has no load, which passes no limit.
        load = await asyncio.to_thread(measure, root, limits, outputs=outputs, mounts=mounts)
        if passed := judge(load, limits):
            return passed


def measure(
    root: int, limits: Limits, *, outputs: Sequence[Path] = (), mounts: Sequence[Path] = ()
) -> Load:
    """What the tree takes now. Costs little: it looks at the tree's own processes alone, and
    counts shared memory exactly only when the cheap count passes the limit."""
    pids = family(root)
    files = _kept_in_memory(pids[-1], mounts)
    memory = files + sum(map(_resident, pids))
    if memory > limits.memory_mib * MIB:
        memory = files + sum(map(_proportional, pids))
    return Load(
        memory, len(pids), sum(map(_cpu_seconds, pids)), max(map(_size, outputs), default=0)
    )


def family(root: int) -> list[int]:
    """A process and its descendants, by the kernel's lists of children. A list may miss one while
    others end: enough to measure by, not to kill by."""
    found, queue = [root], [root]
    while queue:
        pid = queue.pop()
        for task in _tasks(pid):
            own = [int(child) for child in _read(Path(task, "children")).split()]
            found += own
            queue += own
    return found


def _tasks(pid: int) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(f"/proc/{pid}/task")]
    except OSError:  # it ended meanwhile
        return []


def _read(place: Path) -> str:
    try:
        return place.read_text("ascii", "replace")
    except OSError:
        return ""


def _resident(pid: int) -> int:
    fields = _read(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def _proportional(pid: int) -> int:
    """Its own memory and its share of what it shares; all of it where the kernel does not tell."""
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)


def _cpu_seconds(pid: int) -> float:
    """Its own and that of its children that ended, at any depth."""
    fields = stat(pid)
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _kept_in_memory(pid: int, mounts: Sequence[Path]) -> int:
    used = 0
    for place in mounts:
        try:
            room = os.statvfs(f"/proc/{pid}/root{place}")
        except OSError:
            continue
        # An empty file takes no block, and yet the kernel keeps its inode.
        used += (room.f_blocks - room.f_bfree) * room.f_frsize
        used += (room.f_files - room.f_ffree) * INODE_BYTES
    return used


def _size(place: Path) -> int:
    try:
        return place.stat().st_size
    except OSError:
        return 0
