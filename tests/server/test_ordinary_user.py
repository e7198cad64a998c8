"""What only somebody meets who is not root: folders that may not be read, entered or written."""

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from server.agents.copies.snapshot import Snapshots

pytestmark = pytest.mark.timeout(60)

NOBODY = 65_534


def as_a_user(work: Callable[[Path], None]) -> None:
    """Run the work in a process of somebody who is not root, with a folder of their own."""
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return
    try:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        with tempfile.TemporaryDirectory() as place:
            work(Path(place))
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        code = 1
    os._exit(code)


def project(place: Path, *, git: bool) -> Path:
    folder = place / "project"
    for name in ("a.py", "src/b.py", "closed/c.py", "names/d.py", "names/below/e.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1\n")
    if git:
        environment = {"PATH": os.environ["PATH"], "HOME": str(place)}
        for words in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *words], cwd=folder, check=True, env=environment)
    return folder


@pytest.mark.parametrize("git", [True, False])
def test_what_cannot_be_read_is_left_out(git: bool) -> None:
    def work(place: Path) -> None:
        folder = project(place, git=git)
        (folder / "src" / "b.py").chmod(0)
        (folder / "closed").chmod(0)
        (folder / "names").chmod(0o444)
        try:
            pinned = Snapshots(place / "data").pin(folder)
            assert [file.path for file in pinned.files] == ["a.py"]
            assert {why for _, why in pinned.left_out} == {"unreadable"}
        finally:
            for name in ("closed", "names"):
                (folder / name).chmod(0o700)

    as_a_user(work)


def test_a_copy_that_may_not_be_written_goes_all_the_same() -> None:
    def work(place: Path) -> None:
        folder = project(place, git=False)
        snapshots = Snapshots(place / "data")
        first = snapshots.pin(folder)
        (first.path / "a.py").unlink()
        for path in (first.path / "src", first.path):
            path.chmod(0o555)
        again = snapshots.pin(folder)
        assert (again.path / "a.py").read_text() == "1\n"
        again.path.chmod(0o555)
        (folder / "a.py").write_text("2\n")
        last = Snapshots(place / "data", limit=1).pin(folder)
        assert os.listdir(place / "data" / "trees") == [last.tree_id]

    as_a_user(work)
