"""The processes of a measurement: servers, each alone in one, and their readers in C.

Where there are two cores, servers run on one and readers on the other.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0
PASS_SECONDS = 120.0
"""The readers give up by themselves when nothing comes for a minute."""
STOP_SECONDS = 10.0
CLOCK_STEP = 1e-6
"""Seconds of processor time; a moment of the tests may be too short to be seen at all."""
KEY = "AAAAAAAAAAAAAAAAAAAAAA=="


class Broken(Exception):
    """A server or its readers did not do what they must; it says what was seen."""


class Pass(NamedTuple):
    """What one pass came to. Every reader had every message, once and in order."""

    readers: int
    marks: int
    """Messages that came, of all readers together."""
    bytes: int
    wall: float
    cpu: float
    """Seconds of the server's process, kernel included."""
    p50: int
    """Microseconds from the publisher's turn to a socket."""
    p99: int
    max: int

    @property
    def each(self) -> float:
        """CPU seconds of the server for one delivery."""
        return max(self.cpu, CLOCK_STEP) / self.marks


class Server:
    """A process that says on its first line how to connect, and publishes what stdin asks for."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._process.pid
        pinned(self.pid, 0)

    @cached_property
    def how(self) -> dict[str, Any]:
        """What it says of how to connect, once it does; raises Broken. Several may start at once
        until they are asked."""
        return self.line(START_SECONDS)

    @property
    def feed(self) -> int:
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    def line(self, seconds: float = PASS_SECONDS) -> dict[str, Any]:
        return line_of(self._process, seconds)

    def told(self) -> dict[str, Any]:
        """What it has measured itself since it was asked last."""
        os.kill(self.pid, signal.SIGUSR1)
        return self.line()

    def resident(self) -> int:
        """Bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        return cpu_of(self.pid)

    def stop(self) -> None:
        ended(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Readers:
    """Open sockets of one server, which count, and tell its publisher when it is its turn."""

    def __init__(
        self,
        generator: Path,
        server: Server,
        count: int,
        *,
        lines: Sequence[str] = (),
        say: Sequence[str] | None = None,
        ready: str | None = None,
        buffer: int = 0,
    ) -> None:
        """`lines` are what the publisher is given, in turn, with a mark for `#`; `say` and `ready`
        are the server's own where they are None; `buffer` is SO_RCVBUF, 0 the system's own."""
        how = server.how
        said = how.get("say", []) if say is None else say
        words = [
            str(generator), str(how["port"]), str(count), str(server.pid), str(server.feed),
            str(buffer), request(how), ready or how.get("ready", "ready"), "\n".join(said), *lines,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[server.feed]
        )
        pinned(self._process.pid, 1)
        try:
            self._answer(START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def saturated(self, marks: int, window: int, step: int) -> Pass:
        """As fast as the slowest reader allows: `window` messages are under way, and `step` more
        follow when it has had so many."""
        return self._pass(f"saturated {marks} {window} {step}")

    def paced(self, marks: int, per_second: int) -> Pass:
        """Each message at its time, whatever the readers have."""
        return self._pass(f"paced {marks} {per_second}")

    def stall(self) -> None:
        """Read nothing any more."""
        self._say("stall")
        self._answer(PASS_SECONDS)

    def stop(self) -> None:
        ended(self._process)

    def _pass(self, words: str) -> Pass:
        self._say(words)
        return Pass(**self._answer(PASS_SECONDS))

    def _say(self, words: str) -> None:
        assert self._process.stdin is not None
        # Readers that have ended said why before; the answer has it.
        with suppress(BrokenPipeError):
            self._process.stdin.write(words.encode() + b"\n")
            self._process.stdin.flush()

    def _answer(self, seconds: float) -> dict[str, Any]:
        answer = line_of(self._process, seconds)
        if "error" in answer:
            raise Broken(answer["error"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def request(how: dict[str, Any]) -> str:
    """The whole handshake of a socket."""
    lines = [
        f"GET {how.get('path', '/')} HTTP/1.1",
        f"Host: 127.0.0.1:{how['port']}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        *how.get("headers", []),
    ]
    return "\r\n".join([*lines, "", ""])


def module(name: str, *words: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", f"benchmarks.{name}", *words]


def cpu_of(pid: int) -> float:
    """Seconds of processor time of a whole process, by its own clock (kernel/time/posix-cpu-timers:
    CPUCLOCK_SCHED of that pid)."""
    return time.clock_gettime((~pid << 3) | 2)


def pinned(pid: int, place: int) -> None:
    """Keep a process on one core, when there are two."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, {cores[place]})


def line_of(process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    """The next line of its stdout; raises Broken when there is none in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else b""
    if not line:
        raise Broken(f"{Path(str(process.args[0])).name} said nothing")  # type: ignore[index]
    told: dict[str, Any] = json.loads(line)
    return told


def ended(process: subprocess.Popen[bytes]) -> None:
    """It is a throw-away: nothing of it is needed any more."""
    process.kill()
    process.wait(STOP_SECONDS)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what was never read
                pipe.close()
