"""What was seen of an attempt that bears on read-only: hashes before and after."""

import hashlib
import os
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec

from server.agents.copies import seals
from server.agents.copies.git import GitError, PrivateGit, Question
from server.agents.copies.listing import ask_files
from server.agents.copies.repository import connect, find_repository


class Seen(NamedTuple):
    tree: str
    repository: str | None
    moments: bytes = b""
    """Of the copy: differs as soon as something was written, whatever the content is by now."""


def look(tree: Path, repository: Path, *, within: Path | None = None) -> Seen:
    """Hash the pinned copy, and the repository's status and references. `within` is a folder for
    what git needs meanwhile; None is the system's, where a crash would leave it for ever.

    Of a copy with a seal that holds the content is hashed once. The repository's filters, hooks
    and configuration have no say and run nothing; None where it cannot be read, or is none.
    """
    with ExitStack() as stack:
        try:
            status = _asked(repository, stack, within)
        except (GitError, OSError):
            status = None
        copy, moments = _hash_copy(tree)
        try:
            return Seen(copy, status.answer() if status else None, moments)
        except GitError:
            return Seen(copy, None, moments)


def since(before: Seen, after: Seen) -> Seen:
    """`after`, with another tree also where what was written was put back by then."""
    if before.moments == after.moments or before.tree != after.tree:
        return after
    return after._replace(tree=f"restored:{after.tree}")


def hash_tree(root: Path) -> str:
    """A hash that changes with any byte, name or mode below `root`."""
    try:
        return _hash_below(root)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _hash_below(root: Path) -> str:
    digest = hashlib.sha256()
    folders, files = seals.walk(root)
    for path in (*folders, *files):
        place = f"{root}/{path}"
        status = os.lstat(place)
        digest.update(f"{path}\0{status.st_mode:o}\0".encode("utf-8", "surrogateescape"))
        if stat.S_ISREG(status.st_mode):
            with open(place, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        elif stat.S_ISLNK(status.st_mode):
            digest.update(os.fsencode(os.readlink(place)) + b"\0")
    return digest.hexdigest()


def _hash_copy(tree: Path) -> tuple[str, bytes]:
    """The hash of the copy and its moments."""
    seal = seals.load(tree)
    try:
        holds, moments = seals.glance(tree, seal)
    except OSError:
        return hash_tree(tree), b""
    if seal is None or not holds:
        return hash_tree(tree), moments
    if seal.content is not None:
        return seal.content, moments
    content = hash_tree(tree)
    if seals.holds(tree, seal):
        seals.store(tree, msgspec.structs.replace(seal, content=content))
    return content, moments


class _Status(NamedTuple):
    """Questions about a repository, which git answers while the copy is looked at."""

    folder: Path
    head: bytes
    work: Question
    """What is changed, gone and new in the work tree."""
    staged: Question
    references: Question

    def answer(self) -> str:
        """A hash of all of it; raises GitError."""
        digest = hashlib.sha256(self.head)
        for entry in self.work.answer().split(b"\0"):
            digest.update(entry + _state(self.folder, entry[2:]))
        digest.update(self.staged.answer())
        digest.update(self.references.answer())
        return digest.hexdigest()


def _asked(folder: Path, stack: ExitStack, within: Path | None) -> _Status | None:
    repository = find_repository(folder.resolve())
    if repository is None:
        return None
    place = stack.enter_context(tempfile.TemporaryDirectory(prefix="podium-look-", dir=within))
    private = PrivateGit(Path(place) / "git", object_format=repository.object_format)
    connect(private, repository)
    index = repository.index_file
    work = ("--others", "--modified", "--deleted")
    names = ("for-each-ref", "--format=%(refname) %(objectname)")
    return _Status(
        repository.folder,
        (private.directory / "HEAD").read_bytes(),
        stack.enter_context(ask_files(repository, private, *work, index=index)),
        stack.enter_context(ask_files(repository, private, "--stage", index=index)),
        stack.enter_context(private.start(*names)),
    )


def _state(folder: Path, path: bytes) -> bytes:
    """What a look at a file of the work tree shows."""
    try:
        status = os.lstat(os.fsencode(folder) + b"/" + path)
    except (OSError, ValueError):
        return b"\0gone\n"
    shown = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
    return f"\0{shown}\n".encode()
