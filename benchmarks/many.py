"""The rows about many sockets at once: what an idle one holds, what beats cost, and how fast one
run reaches a thousand watchers."""

import resource
import time
from collections.abc import Sequence

from benchmarks.native import compiled
from benchmarks.options import Options
from benchmarks.pipeline import MERGING
from benchmarks.processes import Readers, Server, module
from benchmarks.rows import Bound, Row, bounded

WATCHERS = 1_000
IDLE = 5_000
PER_SECOND = 50
SECONDS = 3
BEAT_SECONDS = 15
"""Between two heartbeats of a socket (`LIMITS.heartbeat_seconds`)."""
SPARE_FILES = 200


def many_rows(options: Options) -> list[Row]:
    return [*watched(options), *idle(options)]


def watched(options: Options) -> list[Row]:
    count = options.size(WATCHERS, 40)
    with podium(options) as server:
        settle(server, options)
        before = server.resident()
        with readers(options, server, count, lines=MERGING) as watching:
            held = (server.resident() - before) / count / 1000
            marks = options.size(SECONDS * PER_SECOND, 10)
            passes = [watching.paced(marks, PER_SECOND) for _ in range(options.passes + 1)][1:]
    name = f"{count:,} sockets watch one run, {PER_SECOND} deltas/s"
    delays = [it.p99 / 1000 for it in passes]
    cores = [it.cpu / it.wall for it in passes]
    return [
        bounded("an idle pane that follows a run", [held], Bound(25, 32, "kB")),
        bounded(f"{name}: publish → socket, p99", delays, Bound(100, 200, "ms")),
        bounded(f"{name}: CPU", cores, Bound(1, 1.2, "cores")),
    ]


def idle(options: Options) -> list[Row]:
    """As many sockets as the system lets a process have, at most IDLE, over a beat of each."""
    count = options.size(min(IDLE, files() - SPARE_FILES), 40)
    seconds = options.size(BEAT_SECONDS, 1)
    with podium(options) as server:
        settle(server, options)
        before = server.resident()
        with readers(options, server, count):
            held = (server.resident() - before) / count / 1000
            began, spent = time.monotonic(), server.cpu()
            time.sleep(seconds)
            busy = (server.cpu() - spent) / (time.monotonic() - began) * 100
    name = f"{count:,} idle sockets"
    return [
        bounded(f"{name}, each", [held], Bound(30, 40, "kB")),
        bounded(f"{name}: CPU with their heartbeats", [busy], Bound(5, 10, "% of a core")),
    ]


def podium(options: Options) -> Server:
    return Server(module("servers.podium", "lines", str(options.place)))


def readers(options: Options, server: Server, count: int, *, lines: Sequence[str] = ()) -> Readers:
    return Readers(compiled("generator", options.place), server, count, lines=lines)


def settle(server: Server, options: Options) -> None:
    """What the first socket loads is no socket's own."""
    with readers(options, server, 10):
        pass


def files() -> int:
    """How many descriptors a process may have here."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
