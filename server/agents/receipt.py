"""What was seen of an attempt that bears on read-only: hashes before and after."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from server.agents.git import GitError, Repository

CONTENT_LIMIT = 64 * 1024 * 1024
"""Copies up to this size are hashed by content, larger ones by name, size and time."""


class Seen(NamedTuple):
    tree: str
    repository: str | None


def look(tree: Path, repository: Path) -> Seen:
    """Hash the pinned copy, and the repository's references and files by size and time.

    Git's own status is not asked: it can run the repository's filters.
    """
    return Seen(hash_tree(tree), _hash_repository(repository))


def hash_tree(root: Path) -> str:
    """A hash that changes with any byte, name or mode below `root` (sizes and times only, for a
    tree of more than 64 MiB)."""
    entries = sorted(_walk(root))
    by_content = sum(status.st_size for _, status in entries) <= CONTENT_LIMIT
    digest = hashlib.sha256()
    for path, status in entries:
        place = root / path
        digest.update(f"{path}\0{status.st_mode:o}\0{status.st_size}\0".encode("utf-8", "replace"))
        if by_content and place.is_file() and not place.is_symlink():
            digest.update(hashlib.sha256(place.read_bytes()).digest())
        else:
            digest.update(str(status.st_mtime_ns).encode())
    return digest.hexdigest()


def _walk(root: Path) -> list[tuple[str, os.stat_result]]:
    found = []
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            place = Path(folder) / name
            found.append((place.relative_to(root).as_posix(), place.lstat()))
    return found


def _hash_repository(folder: Path) -> str | None:
    try:
        repository = Repository(folder)
        listed = repository.listed()
        references = f"{repository.head()}\n{repository.branch()}\n{repository.references()}"
    except GitError:
        return None
    digest = hashlib.sha256(references.encode("utf-8", "replace"))
    for _, path in sorted(listed, key=lambda entry: entry[1]):
        digest.update(_file_state(folder / path).encode("utf-8", "replace"))
    return digest.hexdigest()


def _file_state(place: Path) -> str:
    try:
        status = place.lstat()
    except OSError:
        return f"{place}\0gone\n"
    return f"{place}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_mode:o}\n"
