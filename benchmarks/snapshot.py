"""The pinned copy of a tree of 10,000 files, against `git checkout-index` of the same files.

`python -m benchmarks.snapshot [FOLDER]` prints this table alone, measured below FOLDER.
"""

import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF

from benchmarks.options import Options
from benchmarks.rows import Row, millis, show
from server.agents.copies.cache import remove
from server.agents.copies.seen import look
from server.agents.copies.snapshot import Snapshots
from tests.repositories import IDENTITY

FILES = 10_000
PASSES = 5


def snapshot_rows(options: Options) -> list[Row]:
    return measured(files=options.size(FILES, 200), passes=options.size(PASSES, 1))


def measured(below: Path | None = None, *, files: int = FILES, passes: int = PASSES) -> list[Row]:
    """Interleaved passes; each one checks the tree out, pins it for the first time, pins it again,
    and looks at the copy and the repository twice as an attempt does."""
    with tempfile.TemporaryDirectory(dir=below, ignore_cleanup_errors=True) as folder:
        place = Path(folder).resolve()
        project = large_tree(place / "project", files)
        took: dict[str, list[float]] = {}
        for number in range(passes):
            one_pass(project, place / str(number), took)
    ratio, shown = against(took["first"], took["git"])
    _, busy = against(took["first, CPU"], took["git, CPU"])
    again = statistics.median(took["again"])
    others = ("edited", "restart", "first look", "two looks")
    return [
        Row(f"git checkout-index, {files:,} files", "", millis(took["git"]), True),
        Row(
            f"pin of {files:,} files, the first time",
            "≤ 2 ×",
            f"{shown}, {millis(took['first'])}",
            ratio <= 2,
            loose="≤ 4 ×",
            failed=ratio > 4,
        ),
        Row("pin, the first time, CPU", "", f"{busy}, {millis(took['first, CPU'])}", True),
        Row("pin, the same tree again", "≤ 50 ms", millis(took["again"]), again <= 0.05),
        Row("pin, the same tree again, CPU", "", millis(took["again, CPU"]), True),
        *(Row(f"{name}, CPU", "", millis(took[f"{name}, CPU"]), True) for name in others),
    ]


def against(mine: list[float], git: list[float]) -> tuple[float, str]:
    """The median of the ratios pass by pass, and how it is shown."""
    ratios = [one / other for one, other in zip(mine, git, strict=True)]
    middle = statistics.median(ratios)
    return middle, f"{middle:.2f} × ({min(ratios):.2f}–{max(ratios):.2f})"


def one_pass(project: Path, place: Path, took: dict[str, list[float]]) -> None:
    def timed(name: str, work: Callable[[], object]) -> None:
        began, busy = time.perf_counter(), cpu()
        work()
        took.setdefault(name, []).append(time.perf_counter() - began)
        took.setdefault(f"{name}, CPU", []).append(cpu() - busy)

    place.mkdir()
    git = ["git", "checkout-index", "-a", f"--prefix={place}/checkout/"]
    timed("git", lambda: subprocess.run(git, cwd=project, check=True))
    snapshots = Snapshots(place / "data")
    timed("first", lambda: snapshots.pin(project))
    copy = snapshots.copies.root(snapshots.pin(project).tree_id)
    for _ in range(5):
        timed("again", lambda: snapshots.pin(project))
    timed("restart", lambda: Snapshots(place / "data").pin(project))
    timed("first look", lambda: look(copy, project))
    timed("two looks", lambda: (look(copy, project), look(copy, project)))
    with (project / "edited.py").open("a") as file:
        file.write("edited = True\n")
    timed("edited", lambda: snapshots.pin(project))
    (project / "edited.py").unlink()
    remove(place)


def cpu() -> float:
    """Seconds of processor time, of this process and of the children that it has waited for: the
    same on a machine that is busy with other things."""
    own, children = (resource.getrusage(who) for who in (RUSAGE_SELF, RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def large_tree(folder: Path, files: int) -> Path:
    """A repository of so many files in 500 folders with one commit, packed, and at rest."""
    chance = random.Random(1)
    for number in range(files):
        place = folder / f"package{number % 25}" / f"part{number // 25 % 20}" / f"module{number}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        lines = range(chance.randint(5, 150))
        place.write_text("".join(f"value_{line} = {chance.random()}\n" for line in lines))
    committing = [*IDENTITY, "commit", "-qm", "first"]
    for words in (["init", "-q"], ["add", "-A"], committing, ["repack", "-adq"]):
        command = ["git", "-c", "gc.auto=0", *words]
        subprocess.run(command, cwd=folder, check=True)
    # A file that was written a moment ago is read again: see `Signature.settled`.
    time.sleep(2.5)
    subprocess.run(["git", "status", "--short"], cwd=folder, check=True)
    return folder


if __name__ == "__main__":
    show(measured(Path(sys.argv[1]) if sys.argv[1:] else None))
