"""Reads a project against an earlier scan, and writes what may be copied."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from server.agents.copies.git import PrivateGit
from server.agents.copies.listing import Listing
from server.agents.copies.objects import PLAIN, RUNNABLE, Leaf, Object, trees_of
from server.agents.copies.pinned import PinnedFile, podiumignored
from server.agents.copies.scan import Entry, scan


class Source(NamedTuple):
    """A project with the list of what may be copied."""

    project: Path
    private: PrivateGit
    listing: Listing

    def scan(self, known: Mapping[str, Entry], sink: "Copy | None") -> "Found":
        object_format = self.private.object_format
        entries = scan(
            self.project,
            self.listing.candidates,
            ignored=podiumignored(self.private, self.listing.candidates),
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
        return Found(name.hex(), tuple(files), entries, trees)


class Found(NamedTuple):
    tree_id: str
    files: tuple[PinnedFile, ...]
    entries: Mapping[str, Entry]
    trees: Mapping[bytes, Object]


class Copy:
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
