"""The port to pinned copies: which folders may be projects, and what a view shows."""

import asyncio
import os
from pathlib import Path

import pytest

from protocol.errors import ErrorCode, ProtocolError
from server.agents.copies.snapshot import Snapshots
from server.agents.copies.trees import MAX_FOLDERS, MAX_PATHS, PinnedTrees, PinnedView, _tree


async def test_a_folder_is_a_project_by_its_resolved_path(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "shop")
    trees = PinnedTrees(tmp_path / "data")
    assert await trees.check(tmp_path / "link") == tmp_path / "shop"
    assert await trees.check(tmp_path / "shop" / ".." / "shop") == tmp_path / "shop"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none", "does not exist"),
        ("file", "is not a folder"),
        ("file/inside", "is not a folder"),
        ("a\0b", "cannot be used"),
        ("\udcff", "cannot be used"),
        ("ring", "cannot be"),
        ("x" * 300, "cannot be read"),
        ("data/trees", "inside podium's data directory"),
        (".", "contains podium's data directory"),
    ],
)
async def test_what_cannot_be_a_project(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "ring").symlink_to("ring")
    (tmp_path / "data" / "trees").mkdir(parents=True)
    with pytest.raises(ProtocolError) as refused:
        await PinnedTrees(tmp_path / "data").check(tmp_path / name)
    assert refused.value.code is ErrorCode.BAD_ARGUMENTS
    assert why in refused.value.message
    refused.value.message.encode()


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "../outside", "none", "", ".", "dir", "x\0", "n" * 5_000, "\ud800"]
)
def test_a_view_shows_its_copy_and_nothing_else(tmp_path: Path, path: str) -> None:
    root = tmp_path / "copy"
    (root / "dir").mkdir(parents=True)
    (root / "dir" / "a.py").write_bytes(b"1\r\n\f2\xe9\n")
    (tmp_path / "outside").write_text("hush")
    view = PinnedView(root)
    assert view.paths() == ["dir/a.py"]
    assert view.lines("dir/a.py") == ["1", "\f2\ufffd"]
    assert view.lines(path) is None


async def test_a_copy_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "a.py").write_text("1\n")
    trees = PinnedTrees(tmp_path / "data")
    snapshots = Snapshots(tmp_path / "data")
    tree_id = (await asyncio.to_thread(snapshots.pin, tmp_path / "shop")).tree_id
    os.makedirs(trees.root("abc"))
    assert await trees.exists(tree_id)
    assert not await trees.exists("abc"), "it is not what its name says"
    assert not await trees.exists("def")


async def test_a_project_lies_below_a_root(tmp_path: Path) -> None:
    for name in ("roots/shop", "elsewhere", "rootsy"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "roots" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "way in").symlink_to(tmp_path / "roots" / "shop")
    trees = PinnedTrees(tmp_path / "data", roots=[tmp_path / "none", tmp_path / "roots"])
    for name in ("roots", "roots/shop", "way in"):
        await trees.check(tmp_path / name)
    for name in ("elsewhere", "roots/link", "roots/../elsewhere", "rootsy"):
        with pytest.raises(ProtocolError, match="project_roots") as refused:
            await trees.check(tmp_path / name)
        assert refused.value.code is ErrorCode.FORBIDDEN
        assert "project_roots" in str(refused.value.hint)
        await PinnedTrees(tmp_path / "data").check(tmp_path / name)


def test_few_files_are_named_and_many_are_counted(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    (shop / "src").mkdir(parents=True)
    (shop / "a.py").write_text("12345\n")
    (shop / "src" / "b.py").write_text("1\n")
    few = _tree(Snapshots(tmp_path / "data").pin(shop))
    assert (few.bytes, few.paths, few.folders) == (8, ["a.py", "src/b.py"], {})
    for number in range(MAX_PATHS):
        (shop / "src" / f"c{number}.py").write_text("1\n")
    many = _tree(Snapshots(tmp_path / "data").pin(shop))
    assert (many.paths, many.folders) == ([], {".": 1, "src": MAX_PATHS + 1})
    for number in range(MAX_FOLDERS + 5):
        (shop / f"p{number}").mkdir()
        (shop / f"p{number}" / "a.py").write_text("1\n")
    wide = _tree(Snapshots(tmp_path / "data").pin(shop))
    assert len(wide.folders) == MAX_FOLDERS + 1
    assert sum(wide.folders.values()) == wide.files
    assert wide.folders["src"] == MAX_PATHS + 1


def test_long_names_are_counted_too(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    for number in range(100):
        (shop / f"{'x' * 200}{number}.py").write_text("1\n")
    tree = _tree(Snapshots(tmp_path / "data").pin(shop))
    assert (tree.paths, tree.folders) == ([], {".": 100})
