"""A chart of the rows, as SVG: how much of its target each one uses."""

import statistics
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from benchmarks.rows import Bound, Row

WIDTH, LEFT, RIGHT, LINE, TOP, BOTTOM = 1_100, 520, 30, 24, 48, 24
MOST = 2.0
"""Of a target; what is more ends at the edge."""
GOOD, LOOSE, FAILED = "#2e7d4f", "#b7791f", "#b3261e"


class Bar(NamedTuple):
    name: str
    low: float
    middle: float
    high: float
    color: str


def chart(rows: Sequence[Row]) -> str:
    bars = [bar_of(row, row.bound) for row in rows if row.bound is not None and row.values]
    height = TOP + LINE * len(bars) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="10" y="20" font-size="15" fill="#1a1a1a">How much of its target each row uses:'
        " left of the line is good; the thin line is the range of the passes</text>",
        *axis(height),
    ]
    for number, bar in enumerate(bars):
        parts += drawn(bar, TOP + LINE * number)
    return "\n".join([*parts, "</svg>", ""])


def bar_of(row: Row, bound: Bound) -> Bar:
    """Shares of the target, where less is better: of a least one it is turned round."""
    shares = sorted(bound.target / it if bound.least else it / bound.target for it in row.values)
    color = FAILED if row.failed else GOOD if row.good else LOOSE
    return Bar(row.name, shares[0], statistics.median(shares), shares[-1], color)


def axis(height: int) -> Iterator[str]:
    for share in (0.0, 0.5, 1.0, 1.5, 2.0):
        stroke = "#1a1a1a" if share == 1 else "#d0d0d0"
        place = x(share)
        yield f'<path d="M{place:.1f} {TOP - 6}V{height - BOTTOM}" stroke="{stroke}"/>'
        yield (
            f'<text x="{place:.1f}" y="{height - 8}" text-anchor="middle" fill="#555555">'
            f"{share:.0%}</text>"
        )


def drawn(bar: Bar, top: int) -> Iterator[str]:
    middle = top + LINE / 2
    yield (
        f'<text x="{LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end" fill="#1a1a1a">'
        f"{escape(bar.name)}</text>"
    )
    wide = max(1.0, x(bar.middle) - LEFT)
    yield (
        f'<rect x="{LEFT}" y="{top + 5}" width="{wide:.1f}" height="{LINE - 10}"'
        f' fill="{bar.color}" fill-opacity="0.75"/>'
    )
    low, high = x(bar.low), x(bar.high)
    yield (
        f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 4:.1f}v8'
        f'M{high:.1f} {middle - 4:.1f}v8" stroke="#1a1a1a" fill="none"/>'
    )


def x(share: float) -> float:
    return LEFT + min(share, MOST) / MOST * (WIDTH - LEFT - RIGHT)
