"""What the kernel knows of a server: its memory, its sockets; and how late a loop's timers are."""

import asyncio
import os
import re
import socket
from pathlib import Path

BEAT = 0.1
PAGE = os.sysconf("SC_PAGE_SIZE")
SOCKET = re.compile(r"socket:\[(\d+)\]")


class Lateness:
    """How much time the machine has taken from a loop, so that a bound on wall time can leave out
    what another process used."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due = asyncio.get_running_loop().time() + BEAT
        self._timer = asyncio.get_running_loop().call_at(self._due, self._beat)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self.seconds += max(0.0, asyncio.get_running_loop().time() - self._due)
        self.start()


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def sockets_of(pid: int) -> set[int]:
    """The inodes of a process's sockets."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            named = SOCKET.fullmatch(str(entry.readlink()))
        except FileNotFoundError:
            continue  # closed since
        if named:
            found.add(int(named[1]))
    return found


def accepted(pid: int, server_port: int) -> dict[int, int]:
    """The connections to a port that a process holds: the peer's port, and the socket's inode.

    A connection that is closed on this side has no inode any more, whatever the kernel still does
    about it.
    """
    held, found = sockets_of(pid), {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        ours, theirs = (int(words[at].rpartition(":")[2], 16) for at in (1, 2))
        if ours == server_port and int(words[9]) in held and theirs:
            found[theirs] = int(words[9])
    return found


def waiting_for(peer: socket.socket) -> int:
    """Bytes that the kernel keeps until this peer of ours takes them."""
    (_, ours), (_, theirs) = peer.getsockname(), peer.getpeername()
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        ports = tuple(int(words[at].rpartition(":")[2], 16) for at in (1, 2))
        if ports == (theirs, ours):
            return int(words[4].partition(":")[0], 16)
    return 0


def waiting(server_port: int) -> int:
    """Bytes that the kernel still keeps for connections of this port that nobody holds any more."""
    total = 0
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].rpartition(":")[2], 16) == server_port and int(words[9]) == 0:
            total += int(words[4].partition(":")[0], 16)
    return total
