"""`make bench`: measures what the design promises of speed and size, and prints one table.

Each figure is of this machine and this run. Each run adds a line of JSON to build/benchmarks.jsonl.
The exit code is 1 when a row is past its loose bound.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.groups import GROUPS
from benchmarks.machine import Machine, seen
from benchmarks.options import Missing, Options
from benchmarks.page import write
from benchmarks.rows import Row, show

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "build" / "benchmarks.jsonl"
PASSES = 5


def main() -> int:
    given = arguments(sys.argv[1:])
    if given.list:
        print("\n".join(f"{name:<12} {group.says}" for name, group in GROUPS.items()))
        return 0
    with tempfile.TemporaryDirectory(prefix="podium-bench-", ignore_cleanup_errors=True) as folder:
        options = Options(1 if given.smoke else given.passes, given.smoke, Path(folder))
        rows = measured(given.rows, options)
    machine = seen()
    line = recorded(machine, rows, options)
    if given.json:
        print(line)
    else:
        show(rows)
        print(f"\n{machine}")
    if given.write:
        write(rows, machine, options)
    failed = [row.name for row in rows if row.failed]
    if failed and not options.tiny:
        print(f"past the loose bound: {'; '.join(failed)}", file=sys.stderr)
        return 1
    return 0


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument(
        "--rows", type=groups, default=list(GROUPS), metavar="GROUP,…",
        help="measure only these groups; --list names them",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="name the groups, measure nothing")
    parser.add_argument(
        "--passes", type=int, default=PASSES, help="interleaved passes (%(default)s)"
    )
    parser.add_argument(
        "--smoke", action="store_true",
        help="a moment of each: checks that every reader gets every message, and no time",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one line of JSON, no table")
    parser.add_argument(
        "--write", action="store_true", help="put table and chart into benchmarks/README.md"
    )
    return parser.parse_args(words)


def groups(text: str) -> list[str]:
    names = text.split(",")
    if strange := [name for name in names if name not in GROUPS]:
        raise argparse.ArgumentTypeError(f"no group {strange[0]}; there are {', '.join(GROUPS)}")
    return names


def measured(names: Sequence[str], options: Options) -> list[Row]:
    """The rows of these groups; of one that cannot be measured here, the reason."""
    rows: list[Row] = []
    for name in names:
        print(f"podium: measuring {GROUPS[name].says}", file=sys.stderr, flush=True)
        try:
            rows += GROUPS[name].measure(options)
        except Missing as missing:
            rows.append(Row(f"not measured: {GROUPS[name].says}", "", str(missing), good=True))
    return rows


def recorded(machine: Machine, rows: Sequence[Row], options: Options) -> str:
    """The run as one line of JSON, which is also added to RESULTS."""
    fields = {**machine._asdict(), "passes": options.passes, "smoke": options.tiny}
    line = json.dumps({**fields, "rows": [row._asdict() for row in rows]}, ensure_ascii=False)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    return line


if __name__ == "__main__":
    sys.exit(main())
