"""From a command line to a process: what a child inherits besides its arguments."""

import asyncio
import errno
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

from server.agents.containment.cage import Launch

GUARDIAN = Path(__file__).with_name("guardian.py")


class Spawned(NamedTuple):
    process: asyncio.subprocess.Process
    lifeline: int | None
    """Closing it ends a guarded tree, and so does the end of this server."""


async def spawn(
    launch: Launch,
    *,
    cwd: Path | None = None,
    stdin: int,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> Spawned:
    """Start it in a session of its own; raises OSError when it cannot be started.

    Call it in the main thread: what bubblewrap and the guardian ask of the kernel is to end with
    the *thread* that started them.
    """
    with ExitStack() as passed, ExitStack() as kept:
        command, inherited, lifeline = launch.command, [], None
        if launch.filter is not None:
            held = await asyncio.to_thread(_in_memory, launch.filter)
            passed.callback(os.close, held)
            inherited.append(held)
            command = [command[0], "--seccomp", str(held), *command[1:]]
        if launch.guarded:
            # The other end is of this process alone: a child gets only what is passed on.
            held, lifeline = os.pipe()
            passed.callback(os.close, held)
            kept.callback(os.close, lifeline)
            inherited.append(held)
            command = [sys.executable, "-I", "-S", str(GUARDIAN), str(held), *command]
        await asyncio.to_thread(_must_be_there, launch.program)
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env=launch.environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=inherited,
        )
        kept.pop_all()
    return Spawned(process, lifeline)


def _in_memory(data: bytes) -> int:
    """A file without a name, at its start."""
    descriptor = os.memfd_create("podium")
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _must_be_there(program: Path) -> None:
    # A shell or the guardian would find out only after the start.
    if not os.access(program, os.X_OK):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(program))
