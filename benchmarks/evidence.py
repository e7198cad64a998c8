"""The row about evidence: a thousand citations, checked against the pinned copy of a large tree."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.options import Options
from benchmarks.rows import Bound, Row, bounded
from benchmarks.snapshot import FILES, large_tree
from flows.evidence.citations import Checker
from flows.outputs import CitedLines
from protocol.report import CitationState
from server.agents.copies.snapshot import Snapshots
from server.agents.copies.trees import PinnedView

CITED = 1_000
LINES = 3
STATES = (CitationState.VERIFIED, CitationState.MOVED, CitationState.UNVERIFIED)
"""Citations of each kind in turn: right, at other lines, and of lines that stand nowhere."""


def evidence_rows(options: Options) -> list[Row]:
    files, number = options.size(FILES, 100), options.size(CITED, 30)
    project = large_tree(options.place / "cited", files)
    copy = Snapshots(options.place / "copies").pin(project).path
    cited = list(citations(copy, number))
    took = [checked(copy, cited) for _ in range(options.passes)]
    name = f"check of {number:,} citations in a tree of {files:,} files"
    return [bounded(name, took, Bound(1, 2, "s"))]


def citations(copy: Path, number: int) -> Iterator[tuple[CitedLines, CitationState]]:
    """Each with the verdict that it must get."""
    chance = random.Random(2)
    files = sorted(copy.rglob("*.py"))
    for count in range(number):
        state = STATES[count % len(STATES)]
        file = chance.choice(files)
        lines = file.read_text().splitlines()
        start = chance.randrange(len(lines) - LINES + 1)
        quote = "\n".join(lines[start : start + LINES])
        at = start + 1 + (LINES + 1 if state is CitationState.MOVED else 0)
        yield (
            CitedLines(
                path=file.relative_to(copy).as_posix(),
                line_start=at,
                line_end=at + LINES - 1,
                quote=quote.replace("=", "!=") if state is CitationState.UNVERIFIED else quote,
            ),
            state,
        )


def checked(copy: Path, cited: list[tuple[CitedLines, CitationState]]) -> float:
    """Seconds for all of them, of a view that has read nothing yet."""
    began = time.perf_counter()
    checker = Checker(PinnedView(copy), root=str(copy))
    found = [checker.check(it).state for it, _ in cited]
    took = time.perf_counter() - began
    assert found == [state for _, state in cited], Counter(found)
    return took
