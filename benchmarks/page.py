"""The last table and its chart, in benchmarks/README.md."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.chart import chart
from benchmarks.machine import Machine
from benchmarks.options import Options
from benchmarks.rows import Row

PAGE = Path(__file__).with_name("README.md")
CHART = Path(__file__).with_name("chart.svg")
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"


def write(rows: Sequence[Row], machine: Machine, options: Options) -> None:
    """Put the table in the place of the one that is there."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = measured(rows, machine, options)
    PAGE.write_text(f"{before}{BEGIN}{table}{END}{after}", "utf-8")
    CHART.write_text(chart(rows), "utf-8")


def measured(rows: Sequence[Row], machine: Machine, options: Options) -> str:
    lines = ["| what | target | fails past | measured | |", "|---|---|---|---|---|"]
    lines += [
        f"| {cell(row.name)} | {row.target} | {row.loose} | {cell(row.measured)} | {mark(row)} |"
        for row in rows
    ]
    return "\n".join([*lines, "", f"{machine}; {options.passes} passes.", ""])


def mark(row: Row) -> str:
    if row.target == "":
        return ""
    return "✓" if row.good else row.verdict


def cell(text: str) -> str:
    return text.replace("|", r"\|")
