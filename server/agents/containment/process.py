"""One agent process: started under limits, tailed from a file, killed as a tree."""

import asyncio
import os
import signal
import threading
from contextlib import suppress
from datetime import datetime
from typing import IO, Self

from server.agents.containment.cage import IN_MEMORY, Launch
from server.agents.containment.limits import Limits, overfull, watch
from server.agents.containment.orphans import KILL_SECONDS, Recorded, identity, kill_tree, record
from server.agents.containment.spawn import spawn
from server.agents.invocation import Places
from server.ports import AgentFailure, Clock
from server.shielding import settled

CHUNK = 256 * 1024
POLL_SECONDS = 0.02
STDERR_TAIL = 16 * 1024
BY_SIGNAL = frozenset(
    128 + number
    for number in (
        signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGKILL, signal.SIGSEGV,
        signal.SIGSYS, signal.SIGTERM, signal.SIGTRAP, signal.SIGXCPU, signal.SIGXFSZ,
    )
)  # fmt: skip
"""bubblewrap's exit codes for a program that a signal ended. 130 is qwen's own."""


class StartCancelled(asyncio.CancelledError):
    """A start was cancelled when there was a process already. It has ended."""

    def __init__(self, process: "AgentProcess") -> None:
        super().__init__()
        self.process = process


class AgentProcess:
    """A running agent. Its stdout goes to a file: on a pipe the CLI loses its tail at exit.

    Nothing of it outlives the server, by whatever signal that ends: bubblewrap's namespace of
    processes goes with it, and where there is none the guardian holds the tree.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        launch: Launch,
        places: Places,
        *,
        limits: Limits,
        lifeline: int | None,
        clock: Clock,
    ) -> None:
        self._process = process
        self._launch = launch
        self._places = places
        self._outputs = (places.stdout, places.stderr)
        self._limits = limits
        self._lifeline = lifeline
        self._clock = clock
        self._stdout: IO[bytes] | None = None
        """Held open while the tree lives: whose stdout a file is may take away the right to open
        it, or lease it, so that every opening waits."""
        self._reading = threading.Lock()
        self._position = 0
        self._identity: Recorded | None = None
        self._watching: asyncio.Task[None] | None = None
        self._killing: asyncio.Task[None] | None = None
        self.exceeded: AgentFailure | None = None
        """The limit for which the tree was killed, or which its output reached."""
        self.ended_at: datetime | None = None
        """When its last process was gone; None before `kill` returned."""

    @classmethod
    async def start(cls, launch: Launch, places: Places, *, limits: Limits, clock: Clock) -> Self:
        """Spawn it and write down who it is; raises OSError when it cannot be started.

        Cancelled at any moment it leaves no process, and StartCancelled tells of one that there
        was. Only in the main thread: see `spawn`.
        """
        spawning = asyncio.ensure_future(cls._spawn(launch, places, limits, clock))
        cancelled = await settled(spawning)
        if cancelled is not None:
            if not spawning.cancelled() and spawning.exception() is None:
                process = spawning.result()
                await settled(asyncio.ensure_future(process.kill()))
                raise StartCancelled(process) from cancelled
            raise cancelled
        process = spawning.result()
        process._watching = asyncio.create_task(process._watch(), name="agent limits")
        return process

    @classmethod
    async def _spawn(cls, launch: Launch, places: Places, limits: Limits, clock: Clock) -> Self:
        out, err = await asyncio.to_thread(_open_outputs, places)
        with out, err:
            process, lifeline = await spawn(
                launch, cwd=places.cwd, stdin=asyncio.subprocess.PIPE, stdout=out, stderr=err
            )
        self = cls(process, launch, places, limits=limits, lifeline=lifeline, clock=clock)
        try:
            self._stdout = await asyncio.to_thread(places.stdout.open, "rb", buffering=0)
            self._identity = await asyncio.to_thread(record, self.pid, places.process)
        except BaseException:
            await self.kill()
            raise
        return self

    async def prompt(self, text: str) -> None:
        """Hand the prompt over on stdin and close it. An agent that is gone is no error here."""
        stdin = self._process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(text.encode("utf-8", "replace"))
            await stdin.drain()
        stdin.close()

    @property
    def pid(self) -> int:
        """Of the tree's root: the guardian or bubblewrap."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The agent's own; a signal is negative. None while it runs."""
        code = self._process.returncode
        return 128 - code if self._launch.contained and code in BY_SIGNAL else code

    async def read(self) -> bytes:
        """The next bytes of stdout; after one poll without news, nothing."""
        data = await asyncio.to_thread(self._read)
        if not data and self.exit_code is None:
            await self._clock.sleep(POLL_SECONDS)
        return data

    def _read(self) -> bytes:
        with self._reading:
            if self._stdout is None:
                with self._places.stdout.open("rb", buffering=0) as file:
                    data = os.pread(file.fileno(), CHUNK, self._position)
            else:
                data = os.pread(self._stdout.fileno(), CHUNK, self._position)
            self._position += len(data)
        return data

    def _release(self) -> None:
        """Let go of the output, which is nobody else's any more."""
        with self._reading:
            if self._stdout is not None:
                self._stdout.close()
                self._stdout = None
        for place in self._outputs:
            with suppress(OSError):
                place.chmod(0o600)

    async def stderr_tail(self) -> str:
        def tail() -> str:
            try:
                data = self._places.stderr.read_bytes()[-STDERR_TAIL:]
            except OSError:  # an agent without containment may have taken it away
                return ""
            return data.decode("utf-8", "replace")

        return await asyncio.to_thread(tail)

    async def kill(self) -> None:
        """Kill the whole tree, and return when its last process is gone (at most 10 s).

        A cancellation meanwhile is passed on only then. Safe to call twice.
        """
        if self._killing is None:
            self._killing = asyncio.create_task(self._end(), name="agent kill")
        if cancelled := await settled(self._killing):
            raise cancelled
        self._killing.result()

    async def _end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._end_tree()
        await asyncio.to_thread(self._release)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self.ended_at = self._clock.now()
        if self.exceeded is None:
            self.exceeded = await asyncio.to_thread(overfull, self._outputs, self._limits)
        if self._watching is not None and not self._watching.cancelled():
            # A watch that broke must not pass for one that saw nothing.
            self._watching.result()

    async def _end_tree(self) -> None:
        """The guardian ends the tree and itself last; bubblewrap, and a guardian that does
        nothing, are killed. A root that ended left nobody."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
            if await self._gone():
                return
        if self._process.returncode is None:
            await asyncio.to_thread(self._kill_tree)
            await self._gone()

    def _kill_tree(self) -> None:
        # The number may be another's as soon as the process was waited for.
        if identity(self.pid) == self._identity:
            kill_tree(self.pid, lambda number: os.kill(self.pid, number))

    async def _gone(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await self._process.wait()
                return True
        return False

    async def _watch(self) -> None:
        try:
            self.exceeded = await watch(
                self.pid,
                self._limits,
                clock=self._clock,
                outputs=self._outputs,
                mounts=tuple(IN_MEMORY) if self._launch.contained else (),
            )
        except Exception:
            # Nobody goes on without its limits; `_end` tells of it.
            await self._end_tree()
            raise
        await self._end_tree()


def _open_outputs(places: Places) -> tuple[IO[bytes], IO[bytes]]:
    return places.stdout.open("wb"), places.stderr.open("wb")
