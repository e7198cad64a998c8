"""The pinned copy: the tree as it is now, dirty files included, written once per tree id.

The project gets no write at all. Links are not followed, secrets and what git ignores are not
copied, and everything that was left out is counted.
"""

import fcntl
import hashlib
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from server.agents.copies import Copies, remove
from server.agents.exclusions import is_secret
from server.agents.git import GitError, PrivateGit, Question, size_of
from server.agents.listing import (
    Listing,
    Watch,
    ask_files,
    folders_of,
    list_folder,
    list_repository,
    watch,
)
from server.agents.objects import PLAIN, RUNNABLE, Leaf, Object, trees_of
from server.agents.repository import Repository, connect, find_repository, read_small
from server.agents.scan import Entry, scan
from server.agents.stat_index import Indexed, write_index

NO_LIMIT = 1 << 62
PROJECTS = 8
"""Projects whose last scan is kept in memory."""
PATTERNS = ".podiumignore"
PATTERNS_BYTES = 1024 * 1024
PRIVATE_SHARE = 8
"""Which part of the room for copies the private git directories may take on top."""
INDEX = "pinned.index"
PATIENCE, LOCK_PAUSE = 300.0, 0.01
"""Seconds to wait for another pin of the same project, and between two tries."""


class PinnedFile(NamedTuple):
    path: str
    lines: int
    size: int


class Pinned(NamedTuple):
    """A pinned copy and where it came from."""

    tree_id: str
    path: Path
    files: tuple[PinnedFile, ...]
    left_out: tuple[tuple[str, str], ...]
    """(path, reason), sorted."""
    private: PrivateGit
    repository: Repository | None
    head: str | None
    notes: tuple[str, ...]

    def withheld(self, paths: Iterable[str]) -> set[str]:
        """Which of the paths, of any time, are not for an agent's eyes."""
        known = {path for path, _ in self.left_out}
        paths = list(paths)
        hidden = {path for path in paths if path in known or is_secret(path)}
        return hidden | _podiumignored(self.private, paths)

    def left_out_counts(self) -> dict[str, int]:
        return dict(sorted(Counter(reason for _, reason in self.left_out).items()))


class _Last(NamedTuple):
    """What the last pin of a project found, to be compared with what is there now."""

    pinned: Pinned
    entries: Mapping[str, Entry]
    watches: Sequence[Watch]
    """Whatever has a say in the list of files, and every listed path that is not in the copy."""
    others: frozenset[str]
    """What git may name as untracked: it is listed, but not in the copy."""
    steady: bool
    """Whether all of it was at rest, so that the same look means the same content."""


class _Room:
    """What is kept of one project. Its lock makes pins of one project wait for one another."""

    def __init__(self) -> None:
        self.users = 0
        self.last: _Last | None = None
        self.private: PrivateGit | None = None
        self._lock = threading.RLock()
        self._depth = 0

    @contextmanager
    def alone(self, file: Path) -> Iterator[None]:
        """Keep out other threads, and by a lock on the file other processes; raises GitError when
        that takes too long. It may be entered again by the thread that is in."""
        if not self._lock.acquire(timeout=PATIENCE):
            raise GitError("another pin of this project takes too long")
        self._depth += 1
        try:
            with locked(file) if self._depth == 1 else nullcontext():
                yield
        finally:
            self._depth -= 1
            self._lock.release()


class Snapshots:
    """Pins projects below `data`. Safe to use from many threads."""

    def __init__(self, data: Path, *, limit: int = NO_LIMIT, roots: Sequence[Path] = ()) -> None:
        """`limit`: bytes that the copies may take together. `roots`, resolved: the only folders
        whose object stores may be borrowed from; empty means any."""
        self.copies = Copies(data, limit=limit)
        self._git = data / "git"
        self._locks = data / "locks"
        self._private_limit = limit // PRIVATE_SHARE
        self._roots = roots
        self._rooms: OrderedDict[Path, _Room] = OrderedDict()
        self._lock = threading.Lock()

    def clean(self) -> None:
        """At a start: remove what a crash has left."""
        self.copies.clean()
        for place in self._git.iterdir() if self._git.is_dir() else ():
            if place.name.startswith("."):
                remove(place)

    @contextmanager
    def alone(self, project: Path) -> Iterator[_Room]:
        """While this is open no other thread pins this project or drops what its pins need, and
        the copies that are pinned stay."""
        with self._lock:
            room = self._rooms.setdefault(project, _Room())
            room.users += 1
            self._rooms.move_to_end(project)
            idle = [place for place, other in self._rooms.items() if not other.users]
            for place in idle[: max(0, len(self._rooms) - PROJECTS)]:
                del self._rooms[place]
        try:
            with room.alone(self._lock_of(project)), self.copies.keep():
                yield room
        finally:
            with self._lock:
                room.users -= 1

    def pin(self, project: Path) -> Pinned:
        """Copy the project's tree below `data` and name it by its git tree id.

        Raises OSError when the copy cannot be written, GitError when git does not work.
        """
        project = project.resolve()
        with self.alone(project) as room:
            return self._again(project, room.last) or self._anew(project, room)

    def _again(self, project: Path, last: _Last | None) -> Pinned | None:
        """The last pin, when nothing has changed since. Git does its part meanwhile."""
        if last is None or not last.steady:
            return None
        pinned = last.pinned
        notes = list(pinned.notes)
        try:
            if pinned.repository is not None:
                notes = connect(pinned.private, pinned.repository, self._roots)
            with _changed(project, pinned) as changed, _head(pinned) as head:
                if not all(it.same() for it in last.watches):
                    return None
                if not self.copies.find(pinned.tree_id) or not _known(changed.answer(), last):
                    return None
                commit = head.answer().decode().strip() or None
        except (GitError, OSError):
            return None
        return pinned._replace(head=commit, notes=tuple(notes))

    def _anew(self, project: Path, room: _Room) -> Pinned:
        repository, notes = _repository(project)
        private, first = self._private(project, repository, room)
        if repository is not None:
            notes += connect(private, repository, self._roots)
        at = time.time_ns()
        source = _Source(project, private, _listed(project, repository, private))
        known = room.last.entries if room.last and not first else {}
        room.last = None
        found = self._copied(source, known, straight=first)
        private.add(found.trees.items())
        _write_index(private, found.entries)
        pinned = Pinned(
            found.tree_id,
            self.copies.root(found.tree_id),
            found.files,
            _left_out(source.listing, found.entries),
            private,
            repository,
            private.resolve("HEAD") if repository else None,
            tuple(notes),
        )
        room.last = _last(source, pinned, found.entries, at)
        self._trim()
        return pinned

    def _private(
        self, project: Path, repository: Repository | None, room: _Room
    ) -> tuple[PrivateGit, bool]:
        """The project's private git directory, and whether it is new."""
        object_format = repository.object_format if repository else "sha1"
        directory = self._git / f"{_key(project)}-{object_format}.git"
        first = not directory.exists()
        if room.private is None or room.private.directory != directory or first:
            room.private = PrivateGit(directory, object_format=object_format)
        if room.private.crowded():
            room.private.drop_objects()
        os.utime(directory)
        return room.private, first

    def _copied(self, source: "_Source", known: Mapping[str, Entry], *, straight: bool) -> "_Found":
        """What is in the project, when the copy of that is there. `straight`: there is none yet,
        so what is read is written at once."""
        with self.copies.staging() as staging:
            sink = _Copy(staging)
            found = source.scan(known, sink if straight else None)
            if not straight:
                if self.copies.find(found.tree_id):
                    return found
                # Read once more, to write: only what is read now is sure to be what is written.
                found = source.scan({}, sink)
            files = [file.path for file in found.files]
            self.copies.settle(staging, found.tree_id, sorted(folders_of(files)), files)
        return found

    def _lock_of(self, project: Path) -> Path:
        return self._locks / _key(project)

    def _trim(self) -> None:
        """Keep copies and private directories within their bounds."""
        self.copies.trim()
        places = sorted(self._git.glob("*.git"), key=lambda it: it.stat().st_mtime_ns, reverse=True)
        total = 0
        for place in places:
            total += size_of(place)
            if total > self._private_limit:
                key = place.name.partition("-")[0]
                with suppress(GitError), locked(self._locks / key, patience=0):
                    remove(place)


class _Source(NamedTuple):
    """A project with the list of what may be copied."""

    project: Path
    private: PrivateGit
    listing: Listing

    def scan(self, known: Mapping[str, Entry], sink: "_Copy | None") -> "_Found":
        object_format = self.private.object_format
        entries = scan(
            self.project,
            self.listing.candidates,
            ignored=_podiumignored(self.private, self.listing.candidates),
            known=known,
            object_format=object_format,
            sink=sink,
        )
        files = []
        leaves = []
        for path, entry in entries.items():
            if not entry.reason and entry.signature:
                files.append(PinnedFile(path, entry.lines, entry.signature.size))
                mode = RUNNABLE if entry.runnable else PLAIN
                leaves.append(Leaf(path.encode(), mode, entry.blob))
        name, trees = trees_of(leaves, object_format)
        return _Found(name.hex(), tuple(files), entries, trees)


class _Found(NamedTuple):
    tree_id: str
    files: tuple[PinnedFile, ...]
    entries: Mapping[str, Entry]
    trees: Mapping[bytes, Object]


class _Copy:
    """Writes files below a new folder of podium's own."""

    def __init__(self, staging: Path) -> None:
        self._root = f"{staging}/"
        self._folder = ""
        self._masks: dict[int, bool] = {}

    def write(self, path: str, content: bytes, *, runnable: bool) -> None:
        folder = path.rpartition("/")[0]
        if folder != self._folder:
            os.makedirs(self._root + folder, exist_ok=True)
            self._folder = folder
        # The right to run is part of a git tree: without it the file would count as changed.
        mode = 0o555 if runnable else 0o444
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(self._root + path, flags, mode)
        try:
            written = os.write(descriptor, content)
            while written < len(content):
                written += os.write(descriptor, content[written:])
            if self._masked(descriptor, mode):
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)

    def _masked(self, descriptor: int, mode: int) -> bool:
        """Whether the umask takes something from the mode of every new file."""
        if mode not in self._masks:
            self._masks[mode] = os.fstat(descriptor).st_mode & 0o777 != mode
        return self._masks[mode]


def _key(project: Path) -> str:
    return hashlib.sha256(os.fsencode(project)).hexdigest()[:16]


@contextmanager
def locked(file: Path, *, patience: float = PATIENCE) -> Iterator[None]:
    """Hold a lock that other processes see; raises GitError after `patience` seconds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise GitError("another process pins this project") from error
                time.sleep(LOCK_PAUSE)
        yield
    finally:
        os.close(descriptor)


def pin(project: Path, data: Path) -> Pinned:
    """Pin a project once; who pins often keeps a Snapshots."""
    return Snapshots(data).pin(project)


def _repository(project: Path) -> tuple[Repository | None, list[str]]:
    try:
        return find_repository(project), []
    except GitError as error:
        return None, [f"git cannot read this repository, so it was taken as a folder: {error}"]


def _listed(project: Path, repository: Repository | None, private: PrivateGit) -> Listing:
    _keep_patterns(project, private)
    return list_repository(project, repository, private) if repository else list_folder(project)


def _keep_patterns(project: Path, private: PrivateGit) -> None:
    """Keep `.podiumignore` as it is now. One that cannot be read must not count as none."""
    kept = private.directory / "podiumignore"
    place = project / PATTERNS
    if os.path.lexists(place):
        kept.write_bytes(read_small(place, limit=PATTERNS_BYTES))
    else:
        kept.unlink(missing_ok=True)


def _podiumignored(private: PrivateGit, paths: Iterable[str]) -> set[str]:
    """What `.podiumignore` names; git reads its own syntax."""
    patterns = private.directory / "podiumignore"
    return private.ignored(paths, patterns=patterns) if patterns.exists() else set()


def _left_out(listing: Listing, entries: Mapping[str, Entry]) -> tuple[tuple[str, str], ...]:
    found = [(path, entry.reason) for path, entry in entries.items() if entry.reason]
    return tuple(sorted((_shown(path), reason) for path, reason in (*listing.left_out, *found)))


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


def lines_of(content: bytes) -> list[str]:
    """The lines of a file as its readers number them: parted by newlines and by nothing else.

    `str.splitlines` would part at form feeds too, and every line number behind one would be off.
    """
    lines = content.decode("utf-8", "replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


# --- the same tree again ------------------------------------------------------------------------


def _write_index(private: PrivateGit, entries: Mapping[str, Entry]) -> None:
    """An index of all that is in the copy, for the question in `_again`."""
    indexed = (
        Indexed(
            path.encode(),
            RUNNABLE if entry.runnable else PLAIN,
            entry.blob,
            entry.signature if entry.settled else None,
        )
        for path, entry in entries.items()
        if not entry.reason
    )
    write_index(private.directory / INDEX, indexed, private.object_format)


def _last(source: _Source, pinned: Pinned, entries: Mapping[str, Entry], at: int) -> _Last:
    watches = list(source.listing.watches)
    out = [path.rstrip("/") for path, _ in source.listing.left_out]
    watches += [watch(f"{source.project}/{path}", whole=False) for path in out]
    steady = True
    for path in source.listing.candidates:
        entry = entries.get(path)
        if entry is None:
            out.append(path)
            watches.append(watch(f"{source.project}/{path}"))
        elif entry.reason:
            out.append(path)
            watches.append(Watch(f"{source.project}/{path}", entry.signature))
            steady = steady and entry.signature is not None
    steady = steady and all(it.settled(at) for it in watches)
    return _Last(pinned, entries, watches, frozenset(out), steady)


def _changed(project: Path, pinned: Pinned) -> Question:
    """Ask which files of the copy are changed or gone in the project, and which are new there."""
    index = pinned.private.directory / INDEX
    if pinned.repository is not None:
        options = ("--others", "--modified", "--deleted")
        return ask_files(pinned.repository, pinned.private, *options, index=index)
    return pinned.private.start(
        *("ls-files", "-z", "-t", "--modified", "--deleted"),
        cwd=project,
        extra={"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(project)},
    )


def _known(answer: bytes, last: _Last) -> bool:
    """Whether git names nothing but untracked files that were listed before."""
    entries = answer.decode("utf-8", "surrogateescape").split("\0")
    return all(
        entry[0] == "?" and entry[2:].rstrip("/") in last.others for entry in entries if entry
    )


def _head(pinned: Pinned) -> Question:
    return pinned.private.start("rev-parse", "--verify", "-q", "HEAD^{commit}", fine=1)
