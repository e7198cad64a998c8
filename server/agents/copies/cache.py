"""The cache of pinned copies: DIR/trees, one folder per tree id, within a bound.

A copy has its name only when it is whole. It is handed out as long as its seal holds, or else
after all of it was read again and is what its name says. The least recently used ones go first;
what is held stays.
"""

import os
import shutil
import stat
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from server.agents.copies import seals
from server.agents.copies.listing import folders_of
from server.agents.copies.objects import BLOB, PLAIN, RUNNABLE, Leaf, object_id, trees_of

TRIES = 5
MODES = {0o444: PLAIN, 0o555: RUNNABLE}
"""What a file of a copy may be, and what that is to git."""


class Copies:
    """Safe to use from many threads. One process at a time owns DIR."""

    def __init__(self, data: Path, *, limit: int) -> None:
        """`limit` in bytes. Copies that are held may pass it together."""
        self._trees = data / "trees"
        self._seals = data / "seals"
        self._limit = limit
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._keeping: list[set[str]] = []

    def root(self, tree_id: str) -> Path:
        return self._trees / tree_id

    # --- what stays -----------------------------------------------------------------------------

    @contextmanager
    def hold(self, tree_id: str) -> Iterator[None]:
        """This copy stays while this is open."""
        with self._lock:
            self._held[tree_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[tree_id] -= 1
                if not self._held[tree_id]:
                    del self._held[tree_id]

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Every copy that is found or made while this is open stays until it closes."""
        kept: set[str] = set()
        with self._lock:
            self._keeping.append(kept)
        try:
            yield
        finally:
            with self._lock:
                # By identity: sets of equal content are equal.
                self._keeping = [other for other in self._keeping if other is not kept]

    def _touch(self, tree_id: str) -> None:
        """Note a use before looking for the copy: from here on nobody takes it away."""
        with self._lock:
            for kept in self._keeping:
                kept.add(tree_id)

    # --- what is there --------------------------------------------------------------------------

    def find(self, tree_id: str) -> bool:
        """Whether the copy is there and is what its name says."""
        self._touch(tree_id)
        copy = self.root(tree_id)
        seal = seals.load(copy)
        whole = seal is not None and seals.holds(copy, seal)
        if not whole:
            whole = _verify(copy)
        if whole:
            try:
                os.utime(seals.place_of(copy))
            except FileNotFoundError:  # nobody keeps it, and it was just evicted
                return False
        return whole

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder to make a copy in; what is left of it in the end is removed."""
        self._trees.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=".staging-", dir=self._trees))
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def settle(self, staging: Path, tree_id: str, folders: list[str], files: list[str]) -> None:
        """Give a whole copy its name, unless another one of the same tree was first. One that is
        not what its name says makes room. Raises OSError."""
        self._touch(tree_id)
        copy = self.root(tree_id)
        for _ in range(TRIES):
            if copy.exists():
                if self.find(tree_id):
                    return
                # Not what its name says: it goes, whoever holds it.
                remove(self._rename_away(copy))
            try:
                staging.rename(copy)
            except OSError:
                if not copy.exists():
                    raise
                continue
            seal = seals.make(copy, folders, files)
            if seal is not None:
                seals.store(copy, seal)
                return
        raise OSError(f"the copy {copy} changes while it is made")

    # --- what goes ------------------------------------------------------------------------------

    def trim(self) -> list[str]:
        """Remove the least recently used copies until the rest is within the limit; returns which
        went. What is held or kept stays, and counts."""
        copies = sorted(self._sizes(), key=lambda it: it[2])
        total = sum(size for _, size, _ in copies)
        gone = []
        for tree_id, size, _ in copies:
            if total <= self._limit:
                break
            if self._evict(tree_id):
                gone.append(tree_id)
                total -= size
        return gone

    def clean(self) -> None:
        """At a start: remove what a crash has left half made or half removed."""
        for folder in (self._trees, self._seals):
            for place in folder.iterdir() if folder.is_dir() else ():
                orphan = folder == self._seals and not self.root(place.name).is_dir()
                if place.name.startswith(".") or orphan:
                    remove(place)

    def _sizes(self) -> Iterator[tuple[str, int, int]]:
        """(tree id, bytes, last use) of every copy."""
        for entry in os.scandir(self._trees):
            if entry.name.startswith("."):
                continue
            place = self._seals / entry.name
            try:
                used = place.stat().st_mtime_ns
                size = msgspec.msgpack.decode(place.read_bytes(), type=_Size).size
            except (OSError, msgspec.MsgspecError):
                # Without a seal: a crash came between, and nobody has used it since.
                used, size = 0, sum(_sizes_below(Path(entry.path)))
            yield entry.name, size, used

    def _evict(self, tree_id: str) -> bool:
        """Take one copy away, unless it is held. Its name goes at once, in one step."""
        with self._lock:
            if tree_id in self._held or any(tree_id in kept for kept in self._keeping):
                return False
            trash = self._rename_away(self.root(tree_id))
        remove(trash)
        return True

    def _rename_away(self, copy: Path) -> Path:
        trash = Path(tempfile.mkdtemp(prefix=".trash-", dir=self._trees))
        with suppress(OSError):  # somebody else was first
            if not copy.is_symlink():
                # A folder that may not be written cannot be moved to another one.
                copy.chmod(0o700)
            copy.rename(trash / "copy")
        remove(seals.place_of(copy))
        return trash


class _Size(msgspec.Struct):
    """The part of a seal that says how large its copy is."""

    size: int


def _sizes_below(folder: Path) -> Iterator[int]:
    for here, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):  # it is just being removed
                yield os.lstat(f"{here}/{name}").st_size


def _verify(copy: Path) -> bool:
    """Read all of a copy. If it is what its name says it gets a seal."""
    try:
        folders, files = seals.walk(copy)
        seal = seals.make(copy, folders, files)
        if seal is None or _id_of(copy, folders, files) != copy.name:
            return False
        if not seals.holds(copy, seal):
            return False
        seals.store(copy, seal)
    except OSError:
        return False
    return True


def _id_of(copy: Path, folders: list[str], files: list[str]) -> str | None:
    """The tree id of a copy; None when it holds what no pin writes."""
    object_format = "sha256" if len(copy.name) == 64 else "sha1"
    leaves = []
    for path in files:
        place = copy / path
        mode = MODES.get(stat.S_IMODE(place.lstat().st_mode))
        if mode is None or place.is_symlink():
            return None
        blob = object_id(BLOB, place.read_bytes(), object_format)
        leaves.append(Leaf(os.fsencode(path), mode, blob))
    if set(folders) != folders_of(files):
        return None
    return trees_of(leaves, object_format)[0].hex()


def remove(place: Path) -> None:
    """Remove a file or folder for good, as far as that can be done."""

    def unlock(_: object, path: str, __: object) -> None:
        # Somebody may have taken the right to write from a folder of a copy.
        parent = os.path.dirname(path)
        try:
            os.chmod(parent, 0o700)
            if os.path.isdir(path) and not os.path.islink(path):
                os.chmod(path, 0o700)
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.unlink(path)
        except OSError:
            pass

    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, onerror=unlock)
    else:
        place.unlink(missing_ok=True)
