"""The rows about an agent's line on its way: parsed, committed, published to the panes."""

import json
import statistics
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.native import compiled
from benchmarks.options import Options
from benchmarks.processes import Readers, Server, module
from benchmarks.rows import Bound, Row, bounded, told

PANES = 10
PER_SECOND = 1_000
SECONDS = 2
TEXT = "the caller checks the length before it copies, and "


def line(channel: str, text: str = TEXT) -> str:
    """A line of the agent's stdout with a place for the mark."""
    kind, name = ("text_delta", "text") if channel == "text" else ("thinking_delta", "thinking")
    delta = {"type": kind, name: f"# {text}"}
    event = {"type": "content_block_delta", "index": 0, "delta": delta}
    more = {"session_id": "0f0e7d4c-3f0b-4d5c-9d3e-1d2b7c9a5e10", "parent_tool_use_id": None}
    return json.dumps({"type": "stream_event", "uuid": "0", **more, "event": event})


ALTERNATING = [line("text"), line("thinking")]
"""Two channels in turn: no text is merged with the one before it, each line is a frame."""
MERGING = [line("text")]
"""One text that goes on, as agents write: what comes within a tick is one frame."""


def pipeline_rows(options: Options) -> list[Row]:
    generator = compiled("generator", options.place)
    place = str(options.place)
    with ExitStack() as stack:

        def started(name: str, *words: str) -> Server:
            return stack.enter_context(Server(module(f"servers.{name}", *words)))

        def reading(server: Server, lines: Sequence[str]) -> Readers:
            return stack.enter_context(Readers(generator, server, PANES, lines=lines))

        servers = [started("naive", place), *(started("podium", "lines", place) for _ in range(2))]
        podium = started("podium", "lines", place, "--look")
        naive, ours = (reading(it, ALTERNATING) for it in servers[:2])
        merged = reading(servers[2], MERGING)
        looked_at = reading(podium, ALTERNATING)
        shares, merges, micros, commits, lags = [], [], [], [], []
        marks = options.size(SECONDS * PER_SECOND, 100)
        for number in range(options.passes + 1):
            theirs = naive.paced(marks, PER_SECOND).cpu
            mine = ours.paced(marks, PER_SECOND).cpu
            text = merged.paced(marks, PER_SECOND).cpu
            podium.told()
            looked_at.paced(marks, PER_SECOND)
            seen = podium.told()
            if number > 0:  # the first one warms
                shares.append(mine / theirs)
                merges.append(text / theirs)
                micros.append(theirs / marks * 1e6)
                commits.append(seen["commit"] * 1000)
                lags.append(seen["lag"] * 1000)
    middle = statistics.median(micros)
    name = f"agent's line → parsed, committed, at {PANES} panes, {PER_SECOND:,} lines/s"
    return [
        bounded(
            f"{name}, of the naive pipeline", shares, Bound(0.25, 0.33),
            more=f"; naive: {middle:.0f} µs a line",
        ),
        told("  the same with texts that go on, as agents write them", merges),
        bounded(f"frame made → committed, {PER_SECOND:,} frames/s, p99", commits,
                Bound(100, 200, "ms")),
        bounded("loop lag meanwhile, p99 of looks every 5 ms", lags, Bound(20, 40, "ms")),
    ]  # fmt: skip
