"""Who takes part: the limit, podium's ways, and the peers that are installed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.frames import HEAD, TAIL
from benchmarks.native import compiled
from benchmarks.options import Options
from benchmarks.processes import ROOT, module
from server.agents.installation import find_node

PEERS = Path(os.environ.get("PODIUM_BENCH_PEERS", ROOT / "build" / "peers"))
"""Where `make bench-peers` puts them."""
SEND, BATCH = "C, a send for each message", "C, joined"
READY = "podium, a ready frame for each pane"
EACH = "podium, whole channel, frame by frame"
JOINED = "podium, joined"
TICK = "podium, a write for each tick"
UVLOOP = "podium, joined, on uvloop"
STARLETTE = "starlette, send for each subscriber"
BROADCAST = "websockets, broadcast()"
NODE, SOCKET_IO = "node ws", "python-socketio"
CHANNELS, PICOWS = "Django Channels", "picows"


class Entrant(NamedTuple):
    name: str
    command: list[str]


def entrants(options: Options) -> tuple[list[Entrant], list[str]]:
    """Everyone who can take part, and who cannot, with the reason. Raises Missing without a
    compiler."""
    limit = str(compiled("limit", options.place))
    found = [
        Entrant(SEND, [limit, "send", HEAD, TAIL]),
        Entrant(BATCH, [limit, "batch", HEAD, TAIL]),
        *(ours(options, name, way) for name, way in WAYS.items()),
        Entrant(STARLETTE, module("servers.starlette_queue")),
        Entrant(BROADCAST, module("servers.broadcast")),
    ]
    if importable(sys.executable, "uvloop"):
        found.append(ours(options, UVLOOP, "joined", "--loop", "uvloop"))
    peers, absent = installed_peers()
    return found + peers, absent


WAYS = {READY: "ready", EACH: "each", JOINED: "joined", TICK: "tick"}


def ours(options: Options, name: str, way: str, *words: str) -> Entrant:
    return Entrant(name, module("servers.podium", way, str(options.place), *words))


def installed_peers() -> tuple[list[Entrant], list[str]]:
    python = PEERS / "venv" / "bin" / "python"
    modules = PEERS / "node"
    found, absent = [], []
    if (modules / "node_modules" / "ws").exists():
        script = str(ROOT / "benchmarks" / "peers" / "node_ws.mjs")
        found.append(Entrant(NODE, [node(), script, str(modules), HEAD, TAIL]))
    else:
        absent.append(NODE)
    for name, package, server in (
        (SOCKET_IO, "socketio", "peers.socket_io"),
        (CHANNELS, "channels", "peers.channels_layer"),
        (PICOWS, "picows", "peers.picows_server"),
    ):
        if importable(str(python), package):
            found.append(Entrant(name, module(server, python=str(python))))
        else:
            absent.append(name)
    return found, absent


def node() -> str:
    """The program itself: what is on PATH may be a script that starts it."""
    script = [str(find_node().program), "-p", "process.execPath"]
    return subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip()


def importable(python: str, package: str) -> bool:
    words = [python, "-c", f"import {package}"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
