"""The pinned copy and the scope of a review, with real git and repositories that bite."""

import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from protocol.plan import LineRange
from server.agents.copies.changes import BadScope, Changes, find_changes
from server.agents.copies.pinned import Pinned
from server.agents.copies.snapshot import pin
from tests.repositories import IDENTITY


class Shop:
    """A repository and a data directory."""

    def __init__(self, place: Path) -> None:
        self.path = place / "shop"
        self.data = place / "data"
        self.path.mkdir()

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *IDENTITY, *words], cwd=self.path, check=True, capture_output=True, text=True
        )
        return done.stdout

    def write(self, **files: str) -> None:
        for name, text in files.items():
            place = self.path / name.replace("__", "/").replace("_py", ".py")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    def commit(self, **files: str) -> None:
        if not (self.path / ".git").exists():
            self.git("init", "-q", "-b", "main")
        self.write(**files)
        self.git("add", "-A")
        self.git("commit", "-qm", "change", "--allow-empty")

    def pin(self) -> Pinned:
        return pin(self.path, self.data)

    def scope(self, *paths: str, base: str | None = None, exclude: tuple[str, ...] = ()) -> Changes:
        return find_changes(self.pin(), base=base, paths=paths, exclude=exclude)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def names(pinned: Pinned) -> list[str]:
    return [file.path for file in pinned.files]


def state_of(folder: Path) -> dict[str, tuple[str, int, int, int]]:
    """Every byte, mode and time below a folder, the .git folder included."""
    found = {}
    for place in sorted(folder.rglob("*")):
        status = place.lstat()
        plain = place.is_file() and not place.is_symlink()
        content = hashlib.sha256(place.read_bytes()).hexdigest() if plain else ""
        key = str(place.relative_to(folder))
        found[key] = (content, status.st_mtime_ns, status.st_mode, status.st_ino)
    return found


def test_dirty_untracked_deleted_and_ignored(shop: Shop) -> None:
    shop.commit(a_py="1\n", b_py="2\n", gone_py="3\n")
    (shop.path / ".gitignore").write_text("*.log\n")
    shop.write(a_py="changed\n", new_py="4\n", noise="x")
    (shop.path / "x.log").write_text("ignored")
    (shop.path / "gone.py").unlink()
    pinned = shop.pin()
    assert names(pinned) == [".gitignore", "a.py", "b.py", "new.py", "noise"]
    assert (pinned.path / "a.py").read_text() == "changed\n"


def test_the_tree_id_is_gits_own_and_repeats(shop: Shop) -> None:
    shop.commit(a_py="1\n", tool="#!/bin/sh\n")
    (shop.path / "tool").chmod(0o755)
    shop.commit()
    first = shop.pin()
    assert first.tree_id == shop.git("rev-parse", "HEAD^{tree}").strip()
    os.utime(shop.path / "a.py", (1, 1))
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda _: shop.pin(), range(8)))
    assert {pinned.tree_id for pinned in again} == {first.tree_id}
    assert [it.name for it in (shop.data / "trees").iterdir()] == [first.tree_id]


def test_what_is_left_out_is_counted(shop: Shop, tmp_path: Path) -> None:
    shop.commit(a_py="1\n", podium_test="x")
    (shop.path / ".env").write_text("KEY=1")
    (shop.path / ".env.example").write_text("KEY=")
    (shop.path / "binary").write_bytes(b"a\0b")
    (shop.path / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    (shop.path / "link").symlink_to("/etc/passwd")
    (shop.path / "folder").symlink_to(tmp_path)
    (shop.path / "latin.txt").write_bytes(b"caf\xe9\n")
    (shop.path / 'odd\nname "q" é.txt').write_text("odd\n")
    os.mkfifo(shop.path / "pipe")
    with open(os.fsencode(shop.path) + b"/\xff.txt", "w") as file:
        file.write("no utf-8 name")
    (shop.path / ".podiumignore").write_text("podium_*\n")
    shop.git("add", "-A", "--", "link", "folder")
    pinned = shop.pin()
    assert names(pinned) == [
        ".env.example", ".podiumignore", "a.py", "latin.txt", "odd\nname \"q\" é.txt",
    ]  # fmt: skip
    assert pinned.left_out_counts() == {
        "binary": 1, "link": 2, "odd_name": 1, "podiumignore": 1, "secret": 1, "too_large": 1,
    }  # fmt: skip
    assert (pinned.path / "latin.txt").read_bytes() == b"caf\xe9\n"


def test_folders_without_git_and_without_commits(shop: Shop) -> None:
    shop.write(a_py="1\n")
    (shop.path / "node_modules").mkdir()
    (shop.path / "node_modules" / "x.js").write_text("x")
    plain = shop.pin()
    assert names(plain) == ["a.py"]
    assert plain.left_out_counts() == {"ignored_folder": 1}
    shop.git("init", "-q")
    unborn = shop.pin()
    assert unborn.head is None
    assert shop.scope().kind == "tree"


def test_an_empty_folder_has_the_empty_tree(shop: Shop) -> None:
    assert shop.pin().files == ()


def test_a_folder_of_a_repository_is_a_project_of_its_own(shop: Shop) -> None:
    shop.commit(inner__a_py="1\n", outer_py="2\n")
    shop.write(inner__a_py="1\nadded\n", outer_py="changed\n")
    pinned = pin(shop.path / "inner", shop.data)
    assert names(pinned) == ["a.py"]
    changes = find_changes(pinned, base=None, paths=[], exclude=[])
    assert [file.path for file in changes.files] == ["a.py"]


def test_the_scope_chain(shop: Shop) -> None:
    shop.commit(a_py="1\n2\n3\n", b_py="1\n")
    assert shop.scope().kind == "tree", "a first commit has no change to show"
    shop.commit(b_py="1\n2\n")
    head = shop.scope()
    assert (head.kind, [file.path for file in head.files]) == ("head", ["b.py"])
    shop.git("checkout", "-qb", "feature")
    shop.commit(c_py="new\n")
    shop.commit(d_py="new\n")
    branch = shop.scope()
    assert (branch.kind, [file.path for file in branch.files]) == ("branch", ["c.py", "d.py"])
    shop.write(a_py="1\nnew\n3\n")
    dirty = shop.scope()
    assert (dirty.kind, dirty.files[0].added) == ("uncommitted", [LineRange(2, 2)])
    assert "+new" in (dirty.patches or {})["a.py"]
    assert shop.scope("b.py", "c.py").kind == "paths"
    since = shop.scope(base="main")
    assert [file.path for file in since.files] == ["a.py", "c.py", "d.py"]
    assert [file.path for file in shop.scope(base="main", exclude=("c.py",)).files] == [
        "a.py", "d.py",
    ]  # fmt: skip
    for wrong, field in ((("nope",), "paths"), (("../shop",), "paths")):
        with pytest.raises(BadScope) as refused:
            shop.scope(*wrong)
        assert refused.value.field == field
    for ref in ("nope", "--output=x", "-x"):
        with pytest.raises(BadScope):
            shop.scope(base=ref)


def test_a_committed_secret_is_in_no_patch(shop: Shop) -> None:
    shop.commit(a_py="1\n")
    (shop.path / ".env").write_text("KEY=hush\n")
    shop.commit(a_py="2\n")
    changes = shop.scope()
    assert "hush" not in str(changes)
    assert [file.path for file in changes.files] == ["a.py"]


def test_a_hostile_repository_runs_nothing_and_stays_as_it_is(shop: Shop, tmp_path: Path) -> None:
    shop.commit(a_py="1\n", b_py="1\n")
    canary = tmp_path / "canary"
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {canary}\ncat\n")
    script.chmod(0o755)
    for key in (
        "core.fsmonitor", "core.pager", "diff.external", "filter.evil.clean",
        "filter.evil.smudge", "filter.evil.process", "diff.evil.textconv", "diff.evil.command",
        "core.sshCommand", "alias.ls-files", "merge.evil.driver",
    ):  # fmt: skip
        shop.git("config", key, str(script))
    shop.git("config", "core.hooksPath", str(tmp_path))
    shop.git("config", "core.untrackedCache", "true")
    for hook in ("post-index-change", "post-checkout", "reference-transaction", "pre-auto-gc"):
        (tmp_path / hook).write_text(script.read_text())
        (tmp_path / hook).chmod(0o755)
    (shop.path / ".gitattributes").write_text("* filter=evil diff=evil merge=evil ident\n")
    (shop.path / "a.py").write_text("changed $Id$\n")
    canary.unlink(missing_ok=True)
    before = state_of(shop.path)
    pinned = shop.pin()
    changes = find_changes(pinned, base=None, paths=[], exclude=[])
    assert not canary.exists()
    assert state_of(shop.path) == before
    assert (pinned.path / "a.py").read_text() == "changed $Id$\n"
    assert "a.py" in [file.path for file in changes.files]


def test_the_canary_sings_when_git_is_asked_naively(shop: Shop, tmp_path: Path) -> None:
    """The negative control of the test above."""
    shop.commit(a_py="1\n")
    canary, script = tmp_path / "canary", tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {canary}\ncat\n")
    script.chmod(0o755)
    shop.git("config", "filter.evil.clean", str(script))
    (shop.path / ".gitattributes").write_text("* filter=evil\n")
    (shop.path / "a.py").write_text("changed\n")
    shop.git("diff")
    assert canary.exists()
