"""The same tree again: what is not read again is as good as what is."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.agents.copies import stat_index
from server.agents.copies.pinned import Pinned
from server.agents.copies.snapshot import Snapshots
from tests.server.test_snapshot import Shop, names, shop, state_of

__all__ = ["shop"]


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not be old to be trusted: the tests do not wait for that."""
    monkeypatch.setattr(stat_index, "REST", 0)


def same(first: Pinned, second: Pinned) -> bool:
    """Whether the second pin read nothing: it shows the very list of the first."""
    return second.files is first.files


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("git", [True, False])
def test_a_project_at_rest_is_not_read_again(shop: Shop, git: bool) -> None:
    shop.write(a_py="1\n", src__b_py="1\n", src__key_pem="x")
    (shop.path / "src" / "logo.png").write_bytes(b"\0")
    (shop.path / "link").symlink_to("a.py")
    (shop.path / ".podiumignore").write_text("*.log\n")
    (shop.path / "x.log").write_text("x")
    if git:
        shop.commit()
    snapshots = Snapshots(shop.data)
    first = snapshots.pin(shop.path)
    before = state_of(shop.path)
    again = snapshots.pin(shop.path)
    assert same(first, again)
    assert again == first
    assert state_of(shop.path) == before


@pytest.mark.usefixtures("at_rest")
def test_head_and_branch_are_of_now(shop: Shop) -> None:
    shop.commit(a_py="1\n")
    snapshots = Snapshots(shop.data)
    first = snapshots.pin(shop.path)
    commit = shop.git("commit-tree", "-m", "x", "HEAD^{tree}").strip()
    shop.git("update-ref", "refs/heads/next", commit)
    shop.git("symbolic-ref", "HEAD", "refs/heads/next")
    again = snapshots.pin(shop.path)
    assert same(first, again)
    assert again.head == shop.git("rev-parse", "HEAD").strip() != first.head
    assert again.repository is not None
    assert again.repository.branch() == "next"


def write(path: str, text: str) -> Callable[[Shop], object]:
    return lambda shop: (shop.path / path).write_text(text)


def swap_for_link(shop: Shop) -> None:
    """The files keep inode and times, but lie behind a link now."""
    (shop.path / "src").rename(shop.path.parent / "elsewhere")
    (shop.path / "src").symlink_to(shop.path.parent / "elsewhere")


def now_a_link(shop: Shop) -> None:
    (shop.path / "a.py").unlink()
    (shop.path / "a.py").symlink_to("b")


def now_a_folder(shop: Shop) -> None:
    (shop.path / "a.py").unlink()
    (shop.path / "a.py").mkdir()


def restore_times(shop: Shop) -> None:
    place = shop.path / "a.py"
    status = place.stat()
    place.write_text("2\n")
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, Callable[[Shop], object]] = {
    "edited": write("a.py", "2\n"),
    "edited, times restored": restore_times,
    "longer": write("a.py", "1\n2\n"),
    "added": write("src/c.py", "1\n"),
    "removed": lambda shop: (shop.path / "a.py").unlink(),
    "renamed": lambda shop: (shop.path / "a.py").rename(shop.path / "z.py"),
    "runnable": lambda shop: (shop.path / "a.py").chmod(0o755),
    "now a link": now_a_link,
    "folder now a link": swap_for_link,
    "now a folder": now_a_folder,
    "ignored": write(".gitignore", "new.py\nlogs/\n"),
    "ignored by a rule that is ignored": write("src/.gitignore", ".gitignore\nuntracked.py\n"),
    "ignored by exclude": write(".git/info/exclude", "new.py\n"),
    "left out by podiumignore": write(".podiumignore", "a.py\n"),
    "added to the index": lambda shop: shop.git("add", "-f", "logs/x.log"),
    "dropped from the index": lambda shop: shop.git("rm", "-q", "--cached", "tracked.log"),
    "binary no longer": write("logo.png", "text\n"),
    "was deleted and is back": write("gone.log", "back\n"),
}


@pytest.mark.usefixtures("at_rest")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_shows(shop: Shop, change: Callable[[Shop], object]) -> None:
    shop.commit(a_py="1\n", src__b_py="1\n")
    for name in ("tracked.log", "gone.log"):
        (shop.path / name).write_text("log\n")
    shop.git("add", "-A")
    (shop.path / "gone.log").unlink()
    shop.write(new_py="1\n", src__untracked_py="1\n")
    (shop.path / "logs").mkdir()
    (shop.path / "logs" / "x.log").write_text("log\n")
    (shop.path / ".gitignore").write_text("*.log\nlogs/\n")
    (shop.path / "logo.png").write_bytes(b"\0")
    snapshots = Snapshots(shop.data)
    first = snapshots.pin(shop.path)
    assert same(first, snapshots.pin(shop.path))
    change(shop)
    again = snapshots.pin(shop.path)
    cold = Snapshots(shop.path.parent / "cold").pin(shop.path)
    assert (again.tree_id, again.files, again.left_out) == (
        cold.tree_id, cold.files, cold.left_out,
    )  # fmt: skip
    assert (again.tree_id, again.left_out) != (first.tree_id, first.left_out)


def test_a_write_in_the_second_of_the_pin_shows(shop: Shop) -> None:
    """Git's own look has seconds: such a file is not trusted. Its times tell nothing."""
    shop.commit(a_py="1\n")
    old = (1_000_000_000, 1_000_000_000)
    os.utime(shop.path / "a.py", old)
    snapshots = Snapshots(shop.data)
    first = snapshots.pin(shop.path)
    (shop.path / "a.py").write_text("2\n")
    os.utime(shop.path / "a.py", old)
    assert snapshots.pin(shop.path).tree_id != first.tree_id


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[str, str, str]]:
    path = st.sampled_from(
        ["a", "b", "d/a", "d/e/a", "d/e/b", ".gitignore", "d/.gitignore", "k.pem"]
    )
    text = st.sampled_from(["", "1\n", "2\n", "two\nlines", "*\n", "a\n", "!a\n", "\0"])
    kind = st.sampled_from(["write", "write", "remove", "touch", "run", "add", "reset", "pin"])
    return draw(st.lists(st.tuples(kind, path, text), max_size=12))


@pytest.mark.usefixtures("at_rest")
@given(edits())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_random_edits_pin_as_if_for_the_first_time(steps: list[tuple[str, str, str]]) -> None:
    with TemporaryDirectory() as place:
        shop = Shop(Path(place).resolve())
        shop.commit(a="1\n", d__b="1\n")
        snapshots = Snapshots(shop.data)
        for kind, path, text in [*steps, ("pin", "", "")]:
            edit(shop, kind, path, text)
            if kind == "pin":
                warm = snapshots.pin(shop.path)
                shutil.rmtree(shop.data.parent / "cold", ignore_errors=True)
                cold = Snapshots(shop.data.parent / "cold").pin(shop.path)
                assert (warm.tree_id, warm.files, warm.left_out) == (
                    cold.tree_id, cold.files, cold.left_out,
                )  # fmt: skip
                assert content(warm) == content(cold)


def edit(shop: Shop, kind: str, path: str, text: str) -> None:
    place = shop.path / path
    if kind == "write":
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    elif kind == "add":
        shop.git("add", "-A")
    elif kind == "reset":
        shop.git("reset", "-q")
    elif place.is_file() and kind == "remove":
        place.unlink()
    elif place.is_file() and kind == "touch":
        place.touch()
    elif place.is_file() and kind == "run":
        place.chmod(0o755)


def content(pinned: Pinned) -> dict[str, bytes]:
    return {path: (pinned.path / path).read_bytes() for path in names(pinned)}


@pytest.fixture
def deep(shop: Shop) -> Shop:
    shop.write(a_py="1\n")
    place = shop.path
    for _ in range(120):
        place = place / "d"
        place.mkdir()
    (place / "deep.py").write_text("1\n")
    return shop


@pytest.mark.parametrize("git", [True, False])
def test_what_lies_too_deep_is_left_out(deep: Shop, git: bool) -> None:
    if git:
        deep.commit()
    pinned = deep.pin()
    assert names(pinned) == ["a.py"]
    assert list(pinned.left_out_counts()) == ["too_deep"]


def test_a_podiumignore_that_cannot_be_read_is_not_ignored(shop: Shop) -> None:
    shop.commit(a_py="1\n")
    (shop.path.parent / "rules").write_text("a.py\n")
    (shop.path / ".podiumignore").symlink_to(shop.path.parent / "rules")
    with pytest.raises(Exception, match="podiumignore"):
        shop.pin()
