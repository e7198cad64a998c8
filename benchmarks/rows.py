"""The rows of the table that the benchmarks print, and when one is good."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Bound(NamedTuple):
    """A target and the loose bound beside it: most, or least, that may be measured."""

    target: float
    loose: float
    unit: str = "×"
    least: bool = False

    def said(self, value: float) -> str:
        return f"{'≥' if self.least else '≤'} {value:g} {self.unit}"

    def holds(self, value: float, limit: float) -> bool:
        return value >= limit if self.least else value <= limit


class Row(NamedTuple):
    name: str
    target: str
    measured: str
    good: bool
    loose: str = ""
    """The bound past which the whole run fails."""
    failed: bool = False
    values: tuple[float, ...] = ()
    """Of each pass, in the target's unit."""
    bound: Bound | None = None

    @property
    def verdict(self) -> str:
        if self.failed:
            return "FAILED"
        return "good" if self.good else "misses its target"


def bounded(name: str, values: Sequence[float], bound: Bound, *, more: str = "") -> Row:
    """A row of the median of its passes, which is what is judged."""
    middle = statistics.median(values)
    return Row(
        name,
        bound.said(bound.target),
        spread(values, bound.unit) + more,
        bound.holds(middle, bound.target),
        loose=bound.said(bound.loose),
        failed=not bound.holds(middle, bound.loose),
        values=tuple(values),
        bound=bound,
    )


def told(name: str, values: Sequence[float], unit: str = "×", *, more: str = "") -> Row:
    """A row without a target."""
    return Row(name, "", spread(values, unit) + more, good=True, values=tuple(values))


def spread(values: Sequence[float], unit: str) -> str:
    """The median with the least and the most."""
    middle, low, high = (digits(it) for it in (statistics.median(values), min(values), max(values)))
    return f"{middle} {unit} ({low}–{high})" if len(values) > 1 else f"{middle} {unit}"


def digits(value: float) -> str:
    """Two digits and no more than are known."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def shown(rows: Sequence[Row]) -> str:
    heads = Row("what", "target", "measured", good=True, loose="fails past")
    width, target, loose = (
        max(len(getattr(row, field)) for row in [heads, *rows])
        for field in ("name", "target", "loose")
    )
    lines = [
        f"{row.name:<{width}}  {row.target:<{target}}  {row.loose:<{loose}}  {row.measured}"
        + ("" if row.good and not row.failed else f"   ← {row.verdict}")
        for row in [heads, *rows]
    ]
    return "\n".join(lines)


def show(rows: Sequence[Row]) -> None:
    print(f"\n{shown(rows)}")


def seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} s ({min(values):.2f}–{max(values):.2f})"


def millis(values: Sequence[float]) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle * 1000:.0f} ms ({low * 1000:.0f}–{high * 1000:.0f})"
