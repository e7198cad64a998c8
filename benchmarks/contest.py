"""Everyone delivers the same messages to the same readers, in turn.

All servers are up at once with their sockets open, and short passes go round them: a ratio is taken
within one round, where everything meets the same machine, and the median of the rounds counts.
"""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks import entrants as who
from benchmarks.entrants import Entrant
from benchmarks.options import Options
from benchmarks.processes import Pass, Readers, Server

PACED_PER_SECOND = 20_000
"""Deliveries."""
DELIVERIES = 32_000
"""Of one saturated pass."""
PACED_MARKS = 2_000
ROUNDS = 3
"""For each pass that is asked for: they are short, and a machine with neighbours has its moods."""
CHUNKS = {10: 32, 100: 16}
"""Messages that whoever joins writes together. A flush tick of 25 ms has 25 at 1,000 frames a
second. Two chunks are under way, for everyone."""
JOINING = (who.BATCH, who.JOINED, who.UVLOOP)
"""Whoever does not is given one message when all readers have had one."""
SLOW = (who.CHANNELS,)
"""Whoever cannot deliver so many in a second is not paced, and has a quarter to deliver."""
UNPACED = (who.EACH, who.JOINED, who.UVLOOP, *SLOW)
UNSATURATED = (who.TICK,)


class Results(NamedTuple):
    """By entrant, a pass of each round."""

    panes: int
    saturated: dict[str, list[Pass]]
    paced: dict[str, list[Pass]]

    def ratios(self, mine: str, other: str, *, paced: bool = False) -> list[float]:
        """What a delivery costs the one, as a multiple of what it costs the other; empty when
        either was not there."""
        passes = self.paced if paced else self.saturated
        pairs = zip(passes.get(mine, ()), passes.get(other, ()), strict=False)
        return [one.each / another.each for one, another in pairs]

    def microseconds(self, name: str) -> float:
        return statistics.median(it.each for it in self.saturated[name]) * 1e6

    def rate(self, name: str) -> float:
        """Deliveries in a second on the wall's clock, the best pass."""
        return max(it.marks / it.wall for it in self.saturated[name])


def contest(
    options: Options, generator: Path, everyone: Sequence[Entrant], panes: int, *, paced: bool
) -> Results:
    results = Results(panes, {}, {})
    chunk = CHUNKS[panes]
    marks = options.size(DELIVERIES // panes // chunk * chunk, 3 * chunk)
    per_second = PACED_PER_SECOND // panes
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(one.command)) for one in everyone]
        readers = [
            (one.name, stack.enter_context(Readers(generator, server, panes)))
            for one, server in zip(everyone, servers, strict=True)
        ]
        for number in range(options.size(ROUNDS, 1) * options.passes + 1):
            turn = number % len(readers)
            for name, reader in readers[turn:] + readers[:turn]:
                if name not in UNSATURATED:
                    count = marks // 4 if name in SLOW else marks
                    done = reader.saturated(count, 2 * chunk, chunk if name in JOINING else 1)
                    take(results.saturated, name, done, first=number == 0)
                if paced and name not in UNPACED:
                    done = reader.paced(options.size(PACED_MARKS, 2 * chunk), per_second)
                    take(results.paced, name, done, first=number == 0)
    return results


def take(passes: dict[str, list[Pass]], name: str, done: Pass, *, first: bool) -> None:
    """The first round warms, and counts for nothing."""
    taken = passes.setdefault(name, [])
    if not first:
        taken.append(done)
