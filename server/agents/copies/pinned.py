"""A pinned copy as the rest of the server knows it, and what keeps files out of it."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from server.agents.copies.exclusions import is_secret
from server.agents.copies.git import PrivateGit
from server.agents.copies.repository import Repository, read_small

PATTERNS = ".podiumignore"
PATTERNS_BYTES = 1024 * 1024


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
        return hidden | podiumignored(self.private, paths)

    def left_out_counts(self) -> dict[str, int]:
        return dict(sorted(Counter(reason for _, reason in self.left_out).items()))


def keep_patterns(project: Path, private: PrivateGit) -> None:
    """Keep `.podiumignore` as it is now. One that cannot be read must not count as none."""
    kept = private.directory / "podiumignore"
    place = project / PATTERNS
    if os.path.lexists(place):
        kept.write_bytes(read_small(place, limit=PATTERNS_BYTES))
    else:
        kept.unlink(missing_ok=True)


def podiumignored(private: PrivateGit, paths: Iterable[str]) -> set[str]:
    """What `.podiumignore` names; git reads its own syntax."""
    patterns = private.directory / "podiumignore"
    return private.ignored(paths, patterns=patterns) if patterns.exists() else set()


def lines_of(content: bytes) -> list[str]:
    """The lines of a file as its readers number them: parted by newlines and by nothing else.

    `str.splitlines` would part at form feeds too, and every line number behind one would be off.
    """
    lines = content.decode("utf-8", "replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
