"""The pinned copy: the tree as it is now, dirty files included, written once per tree id.

The project gets no write at all. Links are not followed, secrets and what git ignores are not
copied, and everything that was left out is counted.
"""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from server.agents.copies.cache import Copies, remove
from server.agents.copies.git import GitError, PrivateGit, size_of
from server.agents.copies.last_pin import Last, ask_changed, is_known, keep_index, remember
from server.agents.copies.listing import Listing, folders_of, list_folder, list_repository
from server.agents.copies.pinned import Pinned, keep_patterns
from server.agents.copies.project_lock import Turn, locked
from server.agents.copies.repository import Repository, connect, find_repository, lend
from server.agents.copies.scan import Entry
from server.agents.copies.source import Copy, Found, Source

NO_LIMIT = 1 << 62
PROJECTS = 8
"""Projects whose last scan is kept in memory."""
PRIVATE_SHARE = 8
"""Which part of the turn for copies the private git directories may take on top."""


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
        self._turns: OrderedDict[Path, Turn] = OrderedDict()
        self._lock = threading.Lock()

    def clean(self) -> None:
        """At a start: remove what a crash has left."""
        self.copies.clean()
        for place in (*self._git.glob(".*"), *self._git.glob("*/.empty-*")):
            remove(place)

    @contextmanager
    def alone(self, project: Path) -> Iterator[Turn]:
        """While this is open no other thread pins this project or drops what its pins need, and
        the copies that are pinned stay."""
        with self._lock:
            turn = self._turns.setdefault(project, Turn())
            turn.users += 1
            self._turns.move_to_end(project)
            idle = [place for place, other in self._turns.items() if not other.users]
            for place in idle[: max(0, len(self._turns) - PROJECTS)]:
                del self._turns[place]
        try:
            with turn.alone(self._lock_of(project)), self.copies.keep():
                yield turn
        finally:
            with self._lock:
                turn.users -= 1

    def pin(self, project: Path) -> Pinned:
        """Copy the project's tree below `data` and name it by its git tree id.

        Raises OSError when the copy cannot be written, GitError when git does not work.
        """
        project = project.resolve()
        with self.alone(project) as turn:
            return self._again(project, turn.last) or self._anew(project, turn)

    def _again(self, project: Path, last: Last | None) -> Pinned | None:
        """The last pin, when nothing has changed since. Git does its part meanwhile."""
        if last is None or not last.steady:
            return None
        pinned = last.pinned
        try:
            with ask_changed(project, pinned) as changed:
                if not all(it.same() for it in last.watches):
                    return None
                if not self.copies.find(pinned.tree_id) or not is_known(changed.answer(), last):
                    return None
            return self._as_of_now(pinned)
        except (GitError, OSError):
            return None

    def _as_of_now(self, pinned: Pinned) -> Pinned:
        """The same files, with what the repository says of them now."""
        repository, private = pinned.repository, pinned.private
        if repository is None:
            return pinned
        connect(private, repository)
        notes = lend(private, repository, self._roots)
        head = repository.head_commit()
        if head is None or head != pinned.head:
            head = private.resolve("HEAD")
        return pinned._replace(head=head, notes=tuple(notes))

    def _anew(self, project: Path, turn: Turn) -> Pinned:
        repository, notes = _repository(project)
        private, first = self._private(project, repository, turn)
        if repository is not None:
            connect(private, repository)
            notes += lend(private, repository, self._roots)
        at = time.time_ns()
        source = Source(project, private, _listed(project, repository, private))
        known = turn.last.entries if turn.last and not first else {}
        turn.last = None
        found = self._copied(source, known, straight=first)
        private.add(found.trees.items())
        keep_index(private, found.entries)
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
        turn.last = remember(source, pinned, found.entries, at)
        self._trim()
        return pinned

    def _private(
        self, project: Path, repository: Repository | None, turn: Turn
    ) -> tuple[PrivateGit, bool]:
        """The project's private git directory, and whether it is new."""
        object_format = repository.object_format if repository else "sha1"
        directory = self._git / f"{_key(project)}-{object_format}.git"
        first = not directory.exists()
        if turn.private is None or turn.private.directory != directory or first:
            turn.private = PrivateGit(directory, object_format=object_format)
        if turn.private.crowded():
            turn.private.drop_objects()
        os.utime(directory)
        return turn.private, first

    def _copied(self, source: Source, known: Mapping[str, Entry], *, straight: bool) -> Found:
        """What is in the project, when the copy of that is there. `straight`: there is none yet,
        so what is read is written at once."""
        with self.copies.staging() as staging:
            sink = Copy(staging)
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
        total = 0
        for place in sorted(self._git.glob("*.git"), key=_last_use, reverse=True):
            total += size_of(place)
            if total > self._private_limit:
                key = place.name.partition("-")[0]
                with suppress(GitError), locked(self._locks / key, patience=0):
                    remove(place)


def _last_use(place: Path) -> int:
    try:
        return place.stat().st_mtime_ns
    except FileNotFoundError:  # the pin of another project has just removed it
        return 0


def _key(project: Path) -> str:
    return hashlib.sha256(os.fsencode(project)).hexdigest()[:16]


def pin(project: Path, data: Path) -> Pinned:
    """Pin a project once; who pins often keeps a Snapshots."""
    return Snapshots(data).pin(project)


def _repository(project: Path) -> tuple[Repository | None, list[str]]:
    try:
        return find_repository(project), []
    except GitError as error:
        return None, [f"git cannot read this repository, so it was taken as a folder: {error}"]


def _listed(project: Path, repository: Repository | None, private: PrivateGit) -> Listing:
    keep_patterns(project, private)
    return list_repository(project, repository, private) if repository else list_folder(project)


def _left_out(listing: Listing, entries: Mapping[str, Entry]) -> tuple[tuple[str, str], ...]:
    found = [(path, entry.reason) for path, entry in entries.items() if entry.reason]
    return tuple(sorted((_shown(path), reason) for path, reason in (*listing.left_out, *found)))


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")
