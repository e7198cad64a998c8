"""The looks before and after an attempt: cheap, and nothing escapes them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from server.agents.copies import seals, seen
from server.agents.copies.seen import hash_tree, look, since
from tests.server.test_copies import TAMPERINGS
from tests.server.test_snapshot import Shop, shop, state_of

__all__ = ["shop"]


def test_the_content_is_hashed_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.commit(a_py="1\n", src__b_py="1\n")
    copy = shop.pin().path
    first = look(copy, shop.path)
    assert first.tree == hash_tree(copy)

    def read(root: Path) -> str:
        raise AssertionError("the content is read again")

    monkeypatch.setattr(seen, "hash_tree", read)
    assert look(copy, shop.path) == first
    os.utime(copy / "a.py", (1, 1))
    with pytest.raises(AssertionError):
        look(copy, shop.path)


@pytest.mark.parametrize("tampering", TAMPERINGS.values(), ids=TAMPERINGS)
def test_a_write_to_the_copy_is_seen(shop: Shop, tampering: Callable[[Path], object]) -> None:
    shop.commit(a_py="1\n", src__b_py="1\n")
    copy = shop.pin().path
    before = look(copy, shop.path)
    tampering(copy)
    assert since(before, look(copy, shop.path)).tree != before.tree


def test_a_write_is_seen_though_size_and_times_are_restored(shop: Shop) -> None:
    shop.commit(a_py="12\n")
    copy = shop.pin().path
    before = look(copy, shop.path)
    status = (copy / "a.py").stat()
    with (copy / "a.py").open("r+b") as file:
        file.write(b"3")
    os.utime(copy / "a.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    after = (copy / "a.py").stat()
    assert (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert look(copy, shop.path).tree != before.tree
    # The negative control: a stamp without `ctime` would have missed it.
    seal = seals.load(copy)
    assert seal is not None
    assert not seals.holds(copy, seal)


def test_a_change_that_is_undone_is_seen_all_the_same(shop: Shop) -> None:
    shop.commit(a_py="1\n")
    copy = shop.pin().path
    before = look(copy, shop.path)
    (copy / "a.py").chmod(0o644)
    (copy / "a.py").write_text("2\n")
    assert look(copy, shop.path).tree != before.tree
    (copy / "a.py").write_text("1\n")
    (copy / "a.py").chmod(0o444)
    after = look(copy, shop.path)
    assert after.tree == before.tree, "the content is what it was"
    assert since(before, after).tree != before.tree
    again = look(copy, shop.path)
    assert since(after, again) == again, "a look is no write"


CHANGES: dict[str, Callable[[Shop], object]] = {
    "edited": lambda shop: shop.write(a_py="2\n"),
    "added": lambda shop: shop.write(new_py="1\n"),
    "removed": lambda shop: (shop.path / "a.py").unlink(),
    "staged": lambda shop: shop.git("add", "dirty.py"),
    "committed": lambda shop: shop.git("commit", "-qam", "x", "--allow-empty"),
    "branch": lambda shop: shop.git("branch", "other"),
    "switched": lambda shop: shop.git("symbolic-ref", "HEAD", "refs/heads/other"),
    "tag": lambda shop: shop.git("tag", "v1"),
    "dirty edited": lambda shop: shop.write(dirty_py="3\n"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_repository_is_seen(shop: Shop, change: Callable[[Shop], object]) -> None:
    shop.commit(a_py="1\n")
    shop.write(dirty_py="1\n")
    copy = shop.pin().path
    state = state_of(shop.path)
    before = look(copy, shop.path)
    assert before.repository is not None
    assert look(copy, shop.path) == before
    assert state_of(shop.path) == state
    change(shop)
    after = look(copy, shop.path)
    assert after.repository != before.repository
    assert after.tree == before.tree


def test_refreshing_the_index_is_no_change(shop: Shop) -> None:
    """Editors ask git for the status all the time."""
    shop.commit(a_py="1\n")
    copy = shop.pin().path
    (shop.path / "a.py").touch()
    before = look(copy, shop.path)
    shop.git("status")
    assert look(copy, shop.path) == before


def test_a_folder_has_no_status(shop: Shop) -> None:
    shop.write(a_py="1\n")
    copy = shop.pin().path
    assert look(copy, shop.path).repository is None
    (shop.path / ".git").write_text("gitdir: /nowhere\n")
    assert look(copy, shop.path).repository is None
