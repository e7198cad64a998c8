"""The pinned copy of a tree of 10,000 files, against `git checkout-index` of the same files.

`python -m benchmarks.snapshot [FOLDER]` prints this table alone, measured below FOLDER.
"""

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.rows import Row, millis, show
from server.agents.copies import remove
from server.agents.receipt import look
from server.agents.snapshot import Snapshots

FILES = 10_000
PASSES = 5


def snapshot_rows(below: Path | None = None) -> list[Row]:
    """Interleaved passes; each one checks the tree out, pins it for the first time, pins it again,
    and looks at the copy and the repository twice as an attempt does."""
    with tempfile.TemporaryDirectory(dir=below, ignore_cleanup_errors=True) as folder:
        place = Path(folder).resolve()
        project = large_tree(place / "project")
        took: dict[str, list[float]] = {}
        for number in range(PASSES):
            one_pass(project, place / str(number), took)
    ratios = [mine / git for mine, git in zip(took["first"], took["git"], strict=True)]
    ratio = statistics.median(ratios)
    shown = f"{ratio:.2f} × ({min(ratios):.2f}–{max(ratios):.2f}), {millis(took['first'])}"
    again = statistics.median(took["again"])
    return [
        Row("git checkout-index, 10,000 files", "", millis(took["git"]), True),
        Row("pin, the first time", "≤ 2 ×", shown, ratio <= 2),
        Row("pin, the same tree again", "≤ 50 ms", millis(took["again"]), again <= 0.05),
        Row("pin, one file edited", "", millis(took["edited"]), True),
        Row("pin, same tree after a restart", "", millis(took["restart"]), True),
        Row("looks before and after an attempt", "", millis(took["looks"]), True),
        Row("the first look at a copy", "", millis(took["first look"]), True),
    ]


def one_pass(project: Path, place: Path, took: dict[str, list[float]]) -> None:
    def timed(name: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        took.setdefault(name, []).append(time.perf_counter() - began)

    place.mkdir()
    git = ["git", "checkout-index", "-a", f"--prefix={place}/checkout/"]
    timed("git", lambda: subprocess.run(git, cwd=project, check=True))
    snapshots = Snapshots(place / "data")
    timed("first", lambda: snapshots.pin(project))
    copy = snapshots.pin(project).path
    for _ in range(5):
        timed("again", lambda: snapshots.pin(project))
    timed("restart", lambda: Snapshots(place / "data").pin(project))
    timed("first look", lambda: look(copy, project))
    timed("looks", lambda: (look(copy, project), look(copy, project)))
    with (project / "edited.py").open("a") as file:
        file.write("edited = True\n")
    timed("edited", lambda: snapshots.pin(project))
    (project / "edited.py").unlink()
    remove(place)


def large_tree(folder: Path) -> Path:
    """A repository of FILES files in 500 folders with one commit, packed, and at rest."""
    chance = random.Random(1)
    for number in range(FILES):
        place = folder / f"package{number % 25}" / f"part{number // 25 % 20}" / f"module{number}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        lines = range(chance.randint(5, 150))
        place.write_text("".join(f"value_{line} = {chance.random()}\n" for line in lines))
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        [*identity, "commit", "-qm", "first"],
        ["gc", "-q"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)
    time.sleep(2.5)
    return folder


if __name__ == "__main__":
    show(snapshot_rows(Path(sys.argv[1]) if sys.argv[1:] else None))
