"""The port to pinned copies: which folders may be projects, and what a view shows."""

import os
from pathlib import Path

import pytest

from protocol.errors import ErrorCode, ProtocolError
from server.agents.trees import PinnedTrees, PinnedView


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
    trees = PinnedTrees(tmp_path)
    os.makedirs(trees.root("abc"))
    assert await trees.exists("abc")
    assert not await trees.exists("def")
