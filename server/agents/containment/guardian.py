"""Holds an agent's process tree where no namespace does, and ends with it.

Run as a script of its own, `python -I -S guardian.py LIFELINE COMMAND…`: only the standard library
is in reach. LIFELINE is the read end of a pipe whose other end the server alone has, so that its
end means: the server is gone, by whatever signal, or wants the tree gone. Then, and when the agent
itself ends, every process that came of the agent is killed, also one that left its session or whose
parent ended. The guardian ends last, with the agent's own exit code or by the agent's own signal.

Its streams are the agent's. Where the system has no subreaper and no /proc (macOS) the agent's
process group is what is killed.
"""

import ctypes
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NOT_STARTED = 127
PAUSE = 0.002
"""Seconds between two looks at what is left."""
CHASES = 100
RAISED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""End the tree as the end of the lifeline does."""
RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these, and what is ignored stays so in a new program."""


# --- what /proc tells ---------------------------------------------------------------------------


def stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None for a process that is dead."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields


def descendants(root: int) -> list[tuple[int, int]]:
    """Every living process that came of `root`, with its group; empty where there is no /proc."""
    children: dict[int, list[tuple[int, int]]] = {}
    for pid in processes():
        fields = stat(pid)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append((pid, int(fields[2])))
    found: list[tuple[int, int]] = []
    queue = [root]
    while queue:
        own = children.get(queue.pop(), [])
        found += own
        queue += [pid for pid, _ in own]
    return found


def processes() -> Iterator[int]:
    with suppress(OSError):
        yield from (int(name) for name in os.listdir("/proc") if name.isdigit())


def kill_descendants(root: int) -> bool:
    """Send SIGKILL to all of them once; whether there was any.

    A whole group is killed in one go, so that nobody in it can fork meanwhile.
    """
    found = descendants(root)
    own = {os.getpgid(0), *_group_of(root)}
    for group in {group for _, group in found} - own:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for pid, _ in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def _group_of(pid: int) -> list[int]:
    with suppress(ProcessLookupError):
        return [os.getpgid(pid)]
    return []


# --- the guardian -------------------------------------------------------------------------------


def main() -> None:
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(lifeline, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken = wake_on(signal.SIGCHLD, *RAISED)
    agent = start(command)
    status = watch(lifeline, woken, agent)
    end_all(agent)
    leave(status)


def prctl(option: int, value: int) -> None:
    """Linux alone has it; elsewhere nothing happens."""
    with suppress(AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def wake_on(*signals: signal.Signals) -> int:
    """A descriptor that becomes readable with the numbers of the signals that came."""
    woken, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in signals:
        signal.signal(number, lambda *_: None)
    return woken


def start(command: list[str]) -> int:
    """The agent in a session of its own, which a dead guardian would take with it."""
    parent = os.getpid()
    agent = os.fork()
    if agent == 0:
        try:
            os.setsid()
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in RESTORED:
                signal.signal(number, signal.SIG_DFL)
            if os.getppid() == parent:
                os.execvp(command[0], command)  # noqa: S606 - a list of arguments, no shell
        except OSError as error:
            os.write(2, f"podium: {command[0]} cannot be started: {error.strerror}\n".encode())
        finally:
            os._exit(NOT_STARTED)
    # The agent's streams are the agent's alone: who waits for their end must not wait for us.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    return agent


def watch(lifeline: int, woken: int, agent: int) -> int | None:
    """The agent's wait status once it ended; None when the tree is to be ended."""
    while True:
        ready, _, _ = select.select([lifeline, woken], [], [])
        if lifeline in ready or any(number in RAISED for number in os.read(woken, 4096)):
            return None
        if (status := reap(agent)) is not None:
            return status


def reap(agent: int) -> int | None:
    """Take every child that ended, own or adopted; the agent's status if it is among them."""
    status = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == agent:
                status = ended[1]
    return status


def end_all(agent: int) -> None:
    """Kill until nobody is left. A process that is stopped, or ignores SIGTERM, dies as well."""
    if stat(os.getpid()) is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(agent, signal.SIGKILL)
    while kill_descendants(os.getpid()) or has_children():
        for _ in range(CHASES):
            kill_children()
        time.sleep(PAUSE)


def kill_children() -> None:
    """Kill the direct children: who lost a parent is one. This is quick enough to catch up with
    processes that fork and end at once, of which a look at all processes is always too old."""
    with suppress(OSError), open("/proc/thread-self/children", encoding="ascii") as file:
        for pid in file.read().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def has_children() -> bool:
    """Take all that ended; whether any is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    except ChildProcessError:
        return False


def leave(status: int | None) -> None:
    """End as the agent did, so that its signal stays visible."""
    if status is not None and os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status) if status is not None else signal.SIGKILL
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    main()
