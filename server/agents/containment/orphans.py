"""Process trees beyond doubt: how one is named on disk, killed whole, and found after a crash."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from server.agents.containment.guardian import descendants, kill_descendants, processes, stat
from server.world import boot_id

KILL_SECONDS = 5.0
PAUSE = 0.002


class Recorded(Struct, frozen=True):
    """Names a process beyond doubt: a number alone is given anew, after a boot from the start."""

    pid: int
    started: str
    """Ticks from the boot to the start of the process."""
    boot_id: str


def identity(pid: int) -> Recorded | None:
    """The process as it is now; None when it is gone, or where there is no /proc."""
    fields = stat(pid)
    if fields is None or sys.platform != "linux":
        return None
    return Recorded(pid, fields[19], boot_id())


def record(pid: int, place: Path) -> Recorded | None:
    """Write down who it is, for `reap_orphans` of the next start."""
    found = identity(pid)
    if found is not None:
        place.write_bytes(msgspec.json.encode(found))
    return found


def reap_orphans(data: Path) -> int:
    """Kill what an earlier server left running; returns how many trees. Only processes that are
    beyond doubt the recorded ones are touched, and what came of them."""
    reaped = 0
    for place in sorted((data / "attempts").glob("*/*/*/process.json")):
        try:
            found = msgspec.json.decode(place.read_bytes(), type=Recorded)
        except (OSError, msgspec.DecodeError):
            continue
        reaped += _reap(found)
    return reaped + _reap_cut_starts(data / "attempts")


def _reap(wanted: Recorded) -> bool:
    try:
        # Held from before the look to the signal: its number cannot change owner in between.
        handle = os.pidfd_open(wanted.pid)
    except (OSError, AttributeError, OverflowError):
        return False
    try:
        if identity(wanted.pid) != wanted:
            return False
        kill_tree(wanted.pid, lambda number: signal.pidfd_send_signal(handle, number))
        return True
    finally:
        os.close(handle)


def _reap_cut_starts(attempts: Path) -> int:
    """Kill what is left of a bubblewrap that died in the part of a millisecond in which it has a
    child that waits for it and does not yet die with it. There may be no record yet: but it is a
    bubblewrap, and its command line names an attempt below DIR, which one server has at a time."""
    found = [pid for pid in processes() if _is_bubblewrap(pid) and _names(pid, attempts)]
    killed = [pid for pid in found if _killed(pid)]
    _wait_gone(killed, time.monotonic() + KILL_SECONDS)
    return len(killed)


def _killed(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # It ended meanwhile; or it is another user's, who can give a process any name and words.
        return False
    return True


def _is_bubblewrap(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes() == b"bwrap\n"
    except OSError:
        return False


def _names(pid: int, folder: Path) -> bool:
    try:
        return os.fsencode(f"\0{folder}/") in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def kill_tree(root: int, send: Callable[[int], None]) -> None:
    """Kill all that came of a process, then itself, and wait until they are gone: at most
    KILL_SECONDS, though a killed process is gone at once. `send` sends the root a signal."""
    deadline = time.monotonic() + KILL_SECONDS
    _stop(root, send, deadline)
    known = {pid for pid, _ in descendants(root)}
    while kill_descendants(root) and time.monotonic() < deadline:
        known |= {pid for pid, _ in descendants(root)}
        time.sleep(PAUSE)
    with suppress(ProcessLookupError):
        send(signal.SIGKILL)
    _wait_gone([root, *known], deadline)


def _stop(root: int, send: Callable[[int], None], deadline: float) -> None:
    """It must not die while it forks: the child would be nobody's. Stopped, it does neither."""
    with suppress(ProcessLookupError):
        send(signal.SIGSTOP)
    while (fields := stat(root)) and fields[0] not in "Tt" and time.monotonic() < deadline:
        time.sleep(PAUSE)


def _wait_gone(pids: Iterable[int], deadline: float) -> None:
    while any(stat(pid) is not None for pid in pids) and time.monotonic() < deadline:
        time.sleep(PAUSE)
