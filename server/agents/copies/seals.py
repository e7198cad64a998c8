"""Whether a pinned copy is still what it was: its content is hashed once, and afterwards a look at
every file without reading it tells whether that still holds.

A seal lies beside the copies, in DIR/seals. It is a memory, not a lock: what no longer agrees with
it is read again.
"""

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

TICK = 20_000_000
"""Nanoseconds: no file system's clock stands still for longer on a local disk."""


class Seal(Struct, frozen=True, kw_only=True):
    size: int
    """Bytes on the disk."""
    stamp: bytes
    """Of everything that a look at the copy shows."""
    content: str | None = None
    """`seen.hash_tree` of the copy, once somebody has asked for it."""
    folders: str
    """Relative to the copy, sorted, each with a NUL behind it."""
    files: str


_decode = msgspec.msgpack.Decoder(Seal).decode
_encode = msgspec.msgpack.Encoder().encode


def place_of(copy: Path) -> Path:
    """Where the seal of a copy lies."""
    return copy.parent.parent / "seals" / copy.name


def load(copy: Path) -> Seal | None:
    try:
        return _decode(place_of(copy).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None


def store(copy: Path, seal: Seal) -> None:
    """Replace the seal of a copy; raises OSError."""
    place = place_of(copy)
    place.parent.mkdir(exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=".new-", dir=place.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_encode(seal))
    Path(fresh).replace(place)


def make(copy: Path, folders: Iterable[str], files: Iterable[str]) -> Seal | None:
    """The seal of a copy that holds these and nothing else; None when it does not.

    Waits for TICK: a write that comes after the seal must not bear the time of one that came
    before it.
    """
    listed, named = _listed(folders), _listed(files)
    rested = time.time_ns()
    time.sleep(TICK / 1_000_000_000)
    seen = _look(copy, listed, named)
    if seen is None or max(entry[CHANGED] for entry in seen) > rested:
        return None
    number = listed.count("\0") + 1
    if not _are(stat.S_ISDIR, seen[:number]) or not _are(stat.S_ISREG, seen[number:]):
        return None
    size = sum(_on_disk(entry[SIZE]) for entry in seen)
    return Seal(size=size, stamp=_digest(seen), folders=listed, files=named)


def holds(copy: Path, seal: Seal) -> bool:
    """Whether nothing below the copy was written, added, renamed or removed since the seal."""
    seen = _look(copy, seal.folders, seal.files)
    return seen is not None and _digest(seen) == seal.stamp


class Glance(NamedTuple):
    """What a look at a copy shows without reading it."""

    holds: bool
    """The seal: nothing below the copy was written, added, renamed or removed since."""
    moments: bytes
    """Changes with every write, also with one that puts everything back: nobody sets `ctime`."""


def glance(copy: Path, seal: Seal | None) -> Glance:
    """Look at the copy once; raises OSError where it cannot be read."""
    if seal is not None:
        seen = _look(copy, seal.folders, seal.files)
        if seen is not None and _digest(seen) == seal.stamp:
            return Glance(True, _moments(seen))
    folders, files = walk(copy)
    seen = _look(copy, _listed(folders), _listed(files))
    return Glance(False, _moments(seen or []))


def walk(root: Path) -> tuple[list[str], list[str]]:
    """The folders and all the rest below a folder, relative to it, sorted."""
    folders: list[str] = []
    files: list[str] = []
    waiting = [""]
    while waiting:
        here = waiting.pop()
        for entry in os.scandir(f"{root}/{here}"):
            if entry.is_dir(follow_symlinks=False):
                folders.append(here + entry.name)
                waiting.append(f"{here}{entry.name}/")
            else:
                files.append(here + entry.name)
    return sorted(folders), sorted(files)


def _listed(paths: Iterable[str]) -> str:
    return "".join(f"{path}\0" for path in paths)


def _on_disk(size: int) -> int:
    """In whole blocks of the usual size."""
    return -(-size // 4_096) * 4_096


Seen = tuple[int, int, int, int, int, int, int, int]
SIZE, CHANGED = 5, 7
_shown: Callable[[os.stat_result], Seen] = attrgetter(
    "st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns"
)


def _look(copy: Path, folders: str, files: str) -> list[Seen] | None:
    """What a look at the copy, its folders and its files shows; None when one is missing."""
    root = f"{copy}/"
    # The copy itself without its slash: a link in place of it is none.
    paths = [str(copy), *(root + path for path in f"{folders}{files}".split("\0")[:-1])]
    try:
        return list(map(_shown, map(os.lstat, paths)))
    except (OSError, ValueError):
        return None


def _moments(seen: Iterable[Seen]) -> bytes:
    return _digest([(entry[SIZE], entry[CHANGED]) for entry in seen])


def _are(kind: Callable[[int], bool], seen: Iterable[Seen]) -> bool:
    return all(kind(mode) for mode, *_ in seen)


def _digest(seen: Sequence[tuple[int, ...]]) -> bytes:
    return hashlib.sha256(_encode(seen)).digest()
