"""The row about slow viewers: what those who read notice of those who do not.

In each pass the readers are measured twice, alone and while twenty others have stopped reading:
their sockets are full, and the server has not given them up yet.
"""

import statistics

from benchmarks.many import podium
from benchmarks.native import compiled
from benchmarks.options import Options
from benchmarks.pipeline import TEXT, line
from benchmarks.processes import Pass, Readers
from benchmarks.rows import Bound, Row, bounded

READING, STALLED = 180, 20
PER_SECOND = 50
SECONDS = 3
FILLING_SECONDS = 2
SMALL_BUFFER = 4_096
"""SO_RCVBUF of who stops reading, so that the socket is full at once."""
LARGE = [line("text", TEXT * 80), line("thinking", TEXT * 80)]
"""4 kB each, and never merged."""


def viewer_rows(options: Options) -> list[Row]:
    generator = compiled("generator", options.place)
    reading, stalled = (options.size(*it) for it in ((READING, 20), (STALLED, 2)))
    marks = options.size(SECONDS * PER_SECOND, 20)
    passes: list[tuple[Pass, Pass]] = []
    with (
        podium(options) as server,
        Readers(generator, server, reading, lines=LARGE) as readers,
    ):
        for _ in range(options.passes + 1):
            alone = readers.paced(marks, PER_SECOND)
            with Readers(generator, server, stalled, buffer=SMALL_BUFFER) as others:
                others.stall()
                readers.paced(options.size(FILLING_SECONDS * PER_SECOND, 10), PER_SECOND)
                passes.append((alone, readers.paced(marks, PER_SECOND)))
    ratios = [beside.p99 / alone.p99 for alone, beside in passes[1:]]
    usual = statistics.median(it.p99 for it, _ in passes[1:]) / 1000
    name = f"p99 of {reading} viewers while {stalled} do not read, of without"
    return [bounded(name, ratios, Bound(1.2, 1.6), more=f"; without: {usual:.0f} ms")]
