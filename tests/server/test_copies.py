"""The cache of copies: whole or not there, within its bound, and never taken from a live run."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.agents.copies import git, seals
from server.agents.copies.changes import find_changes
from server.agents.copies.pinned import Pinned
from server.agents.copies.snapshot import Snapshots
from tests.server.test_snapshot import Shop, names, shop

__all__ = ["shop"]

KIB = 1024


def trees(shop: Shop) -> set[str]:
    return {place.name for place in (shop.data / "trees").iterdir()}


def version(shop: Shop, number: int, size: int = 100 * KIB) -> None:
    """A tree of its own, of about that many bytes."""
    (shop.path / "a.py").write_text(f"{number:08}\n" * (size // 9))


def pin_versions(shop: Shop, snapshots: Snapshots, numbers: range) -> list[str]:
    found = []
    for number in numbers:
        version(shop, number)
        found.append(snapshots.pin(shop.path).tree_id)
    return found


def test_the_least_recently_used_copies_go(shop: Shop) -> None:
    snapshots = Snapshots(shop.data, limit=350 * KIB)
    first, second, third = pin_versions(shop, snapshots, range(3))
    assert trees(shop) == {first, second, third}
    assert snapshots.copies.find(first), "a use that makes it the youngest"
    (fourth,) = pin_versions(shop, snapshots, range(3, 4))
    assert trees(shop) == {first, third, fourth}
    assert {place.name for place in (shop.data / "seals").iterdir()} == trees(shop)


def test_what_is_held_stays(shop: Shop) -> None:
    snapshots = Snapshots(shop.data, limit=150 * KIB)
    (first,) = pin_versions(shop, snapshots, range(1))
    with snapshots.copies.hold(first), snapshots.copies.hold(first):
        _, third = pin_versions(shop, snapshots, range(1, 3))
        assert trees(shop) == {first, third}
    with snapshots.copies.keep():
        fourth, fifth = pin_versions(shop, snapshots, range(3, 5))
        assert trees(shop) == {fourth, fifth}
    (sixth,) = pin_versions(shop, snapshots, range(5, 6))
    assert trees(shop) == {sixth}


def test_a_copy_that_is_larger_than_the_room_stays_while_it_is_the_last(shop: Shop) -> None:
    snapshots = Snapshots(shop.data, limit=10 * KIB)
    for tree_id in pin_versions(shop, snapshots, range(3)):
        last = tree_id
    assert trees(shop) == {last}


def test_pins_race_evictions(shop: Shop, tmp_path: Path) -> None:
    """Two projects and a room for one copy: whoever is inside `alone` always has its own."""
    (tmp_path / "other").mkdir()
    other = Shop(tmp_path / "other")
    snapshots = Snapshots(shop.data, limit=KIB)

    def pin_often(mine: Shop, start: int) -> int:
        for number in range(start, start + 25):
            version(mine, number % 3 + start, size=8 * KIB)
            with snapshots.alone(mine.path):
                pinned = snapshots.pin(mine.path)
                expected = (mine.path / "a.py").read_bytes()
                assert (pinned.path / "a.py").read_bytes() == expected
        return start

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(pin_often, (shop, other), (0, 1))) == [0, 1]
    snapshots.copies.trim()
    assert len(trees(shop)) <= 1


def test_a_pin_outlives_what_goes_in_the_folder_of_another_project(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git's half-written pack, and then the whole folder, vanish between the list and the look."""
    (tmp_path / "other").mkdir()
    other = Shop(tmp_path / "other")
    snapshots = Snapshots(shop.data)
    version(other, 0)
    private = snapshots.pin(other.path).private.directory
    half = private / "objects" / "pack" / "tmp_pack_half"
    half.write_bytes(b"half of a pack")
    gone = []

    def listed(folder: Path | str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as found:
            entries = list(found)
        if half.exists() and Path(folder) == half.parent:
            half.unlink()
            gone.append(half)
        yield from entries

    monkeypatch.setattr(git, "os", SimpleNamespace(**{**vars(os), "scandir": listed}))
    version(shop, 1)
    assert snapshots.pin(shop.path).tree_id in trees(shop)
    assert gone == [half]

    monkeypatch.undo()
    shutil.rmtree(private)
    assert git.size_of(private) == 0


def test_what_a_power_cut_leaves_of_a_private_directory_is_not_used(shop: Shop) -> None:
    """Nothing in it is forced to the disk: files may be there by name and without content."""
    shop.commit(a_py="old\n")
    version(shop, 0)
    pinned = Snapshots(shop.data).pin(shop.path)
    find_changes(pinned, base=None, paths=[], exclude=[])
    files = [place for place in pinned.private.directory.rglob("*") if is_plain(place)]
    assert {place.suffix for place in files} >= {".pack", ".idx"}
    for place in files:
        place.chmod(0o600)
        place.write_bytes(b"")
    snapshots = Snapshots(shop.data)
    snapshots.clean()
    again = snapshots.pin(shop.path)
    assert again.tree_id == pinned.tree_id
    assert find_changes(again, base=None, paths=[], exclude=[]).kind == "uncommitted"


def is_plain(place: Path) -> bool:
    """Whether it is a file that is podium's own: the references are links."""
    own = not place.is_symlink() and not any(above.is_symlink() for above in place.parents)
    return own and place.is_file()


@pytest.mark.parametrize("forced", [False, True])
def test_a_pin_waits_for_no_disk(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, forced: bool
) -> None:
    """On a busy one each fsync takes up to seconds, and git makes two for each pack."""
    environment, told = git._environment, tmp_path / "told"

    def traced(extra: Mapping[str, str]) -> dict[str, str]:
        return environment(extra) | {"GIT_TRACE2_EVENT": str(told)}

    monkeypatch.setattr(git, "_environment", traced)
    if forced:
        monkeypatch.setattr(git, "_NEUTRAL", git._NEUTRAL[:-2])
    shop.commit(a_py="old\n")
    version(shop, 0)
    find_changes(Snapshots(shop.data).pin(shop.path), base=None, paths=[], exclude=[])
    assert "index-pack" in told.read_text()
    assert ('"category":"fsync"' in told.read_text()) is forced


def test_an_eviction_that_meets_a_new_use_lets_go(shop: Shop) -> None:
    """The copy is found between the choice of the victim and its end."""
    snapshots = Snapshots(shop.data)
    (first,) = pin_versions(shop, snapshots, range(1))
    copies = snapshots.copies
    entered, done = threading.Event(), threading.Event()

    def use() -> bool:
        with copies.keep():
            found = copies.find(first)
            entered.set()
            assert done.wait(10)
            return found and copies.root(first).is_dir()

    with ThreadPoolExecutor(1) as pool:
        using = pool.submit(use)
        assert entered.wait(10)
        assert not copies._evict(first)
        done.set()
        assert using.result(10)
    assert copies._evict(first)
    assert not copies.find(first)


def edit_in_place(copy: Path) -> None:
    """Nothing but `ctime` tells of it."""
    place = copy / "a.py"
    status = place.stat()
    with place.open("r+b") as file:
        file.write(b"X")
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_link(copy: Path) -> None:
    (copy / "a.py").unlink()
    (copy / "a.py").symlink_to("/etc/hostname")


def replace_folder_by_link(copy: Path) -> None:
    (copy / "src").rename(copy.parent / ".moved")
    (copy / "src").symlink_to(copy.parent / ".moved")


def replace_by_file(copy: Path) -> None:
    shutil.rmtree(copy)
    copy.write_text("x")


def replace_by_link_to_the_same(copy: Path) -> None:
    copy.rename(copy.parent.parent / "elsewhere")
    copy.symlink_to(copy.parent.parent / "elsewhere")


TAMPERINGS: dict[str, Callable[[Path], object]] = {
    "edited, times restored": edit_in_place,
    "added": lambda copy: (copy / "new.py").write_text("x"),
    "added below": lambda copy: (copy / "src" / "new.py").write_text("x"),
    "an empty folder": lambda copy: (copy / "empty").mkdir(),
    "removed": lambda copy: (copy / "a.py").unlink(),
    "emptied by a power cut": lambda copy: os.truncate(copy / "a.py", 0),
    "replaced by a link": replace_by_link,
    "a folder replaced by a link": replace_folder_by_link,
    "writable": lambda copy: (copy / "a.py").chmod(0o644),
    "runnable": lambda copy: (copy / "a.py").chmod(0o555),
    "half made": lambda copy: shutil.rmtree(copy / "src"),
    "a file in place of it": replace_by_file,
    "a link in place of it": replace_by_link_to_the_same,
}


@pytest.mark.parametrize("tampering", TAMPERINGS.values(), ids=TAMPERINGS)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_copy_that_was_changed_is_made_anew(
    shop: Shop, tampering: Callable[[Path], object], sealed: bool
) -> None:
    shop.commit(a_py="1\n", src__b_py="1\n")
    snapshots = Snapshots(shop.data)
    first = snapshots.pin(shop.path)
    tampering(first.path)
    if not sealed:
        seals.place_of(first.path).unlink()
    assert not snapshots.copies.find(first.tree_id)
    for again in (snapshots.pin(shop.path), Snapshots(shop.data).pin(shop.path)):
        assert again.tree_id == first.tree_id
        assert (again.path / "a.py").read_text() == "1\n"
        assert (again.path / "src" / "b.py").read_text() == "1\n"
        assert snapshots.copies.find(first.tree_id)
    with snapshots.copies.staging() as place:
        assert seals.walk(again.path) == (["src"], ["a.py", "src/b.py"]), place


def test_what_stands_in_place_of_a_seal_is_no_obstacle(shop: Shop) -> None:
    shop.commit(a_py="1\n")
    snapshots = Snapshots(shop.data)
    first = snapshots.pin(shop.path)
    place = seals.place_of(first.path)
    place.unlink()
    (place / "x").mkdir(parents=True)
    again = snapshots.pin(shop.path)
    assert (again.path / "a.py").read_text() == "1\n"
    assert snapshots.copies.find(first.tree_id)
    assert place.is_file()


def test_a_touch_is_no_change(shop: Shop) -> None:
    shop.commit(a_py="1\n")
    snapshots = Snapshots(shop.data)
    first = snapshots.pin(shop.path)
    inode = (first.path / "a.py").stat().st_ino
    os.utime(first.path / "a.py", (1, 1))
    assert snapshots.pin(shop.path).tree_id == first.tree_id
    assert (first.path / "a.py").stat().st_ino == inode, "it was read, found whole, and kept"


def test_a_start_cleans_up_after_a_crash(shop: Shop) -> None:
    shop.commit(a_py="1\n")
    pinned = Snapshots(shop.data).pin(shop.path)
    for name in ("trees/.staging-x", "trees/.trash-x/copy", "git/.new-x", "seals/.new-x"):
        (shop.data / name).mkdir(parents=True)
        (shop.data / name / "left").write_text("x")
    (shop.data / "seals" / "gone").write_bytes(b"x")
    (shop.data / "trees" / "half").mkdir()
    snapshots = Snapshots(shop.data)
    snapshots.clean()
    left = [str(it.relative_to(shop.data)) for it in shop.data.rglob("*") if ".new" in it.name]
    assert left == []
    assert trees(shop) == {pinned.tree_id, "half"}
    assert not snapshots.copies.find("half"), "a name alone makes no copy"
    assert snapshots.pin(shop.path).files == pinned.files
    assert {it.name for it in (shop.data / "seals").iterdir()} == {pinned.tree_id}


@pytest.mark.parametrize("step", ["Path.rename", "seals.make"])
def test_a_crash_leaves_no_copy_or_a_whole_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A copy gets its name in one step, and its seal after it."""
    shop.commit(a_py="1\n", b_py="1\n")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    Snapshots(shop.data).pin(shop.path)
    shop.write(a_py="2\n")
    with monkeypatch.context() as patched:
        patched.setattr(f"server.agents.copies.cache.{step}", crash)
        with pytest.raises(KeyboardInterrupt):
            Snapshots(shop.data).pin(shop.path)
    snapshots = Snapshots(shop.data)
    assert len(trees(shop)) == (1 if step == "Path.rename" else 2)
    pinned = snapshots.pin(shop.path)
    assert names(pinned) == ["a.py", "b.py"]
    assert snapshots.copies.find(pinned.tree_id)


def test_private_objects_do_not_grow_for_ever(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "PACKS", 4)
    shop.commit(a_py="1\n")
    snapshots = Snapshots(shop.data)
    for number in range(12):
        version(shop, number, size=KIB)
        pinned = snapshots.pin(shop.path)
        assert len(list((pinned.private.directory / "objects" / "pack").iterdir())) <= 12


def test_private_directories_go_with_their_bound(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "data", limit=8 * KIB)
    for number in range(6):
        place = tmp_path / str(number)
        place.mkdir()
        mine = Shop(place)
        mine.commit(a_py=f"{number}\n")
        pinned = snapshots.pin(mine.path)
        assert pinned.private.directory.is_dir()
    assert len(list((tmp_path / "data" / "git").iterdir())) <= 2
    place = tmp_path / "0"
    assert snapshots.pin(place / "shop").tree_id, "one that went is made again"


def test_two_processes_worth_of_pins(shop: Shop) -> None:
    """Each with a memory of its own, on one DIR."""
    shop.commit(a_py="1\n", b_py="1\n")
    own = [Snapshots(shop.data) for _ in range(4)]

    def pin_twice(snapshots: Snapshots) -> list[Pinned]:
        return [snapshots.pin(shop.path) for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        found = [pinned for each in pool.map(pin_twice, own) for pinned in each]
    assert len({pinned.tree_id for pinned in found}) == 1
    assert trees(shop) == {found[0].tree_id}
