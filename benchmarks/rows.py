"""The rows of the table that the benchmarks print."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    name: str
    target: str
    measured: str
    good: bool


def show(rows: Sequence[Row]) -> None:
    width = max(len(row.name) for row in rows)
    print(f"\n{'what':<{width}}  {'target':<10}  measured")
    for row in rows:
        mark = "" if row.good else "   ← misses its target"
        print(f"{row.name:<{width}}  {row.target:<10}  {row.measured}{mark}")


def seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} s ({min(values):.2f}–{max(values):.2f})"


def millis(values: Sequence[float]) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle * 1000:.0f} ms ({low * 1000:.0f}–{high * 1000:.0f})"


def shares(values: Sequence[float]) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.2f} × ({low:.2f}–{high:.2f}), {len(values)} passes"
