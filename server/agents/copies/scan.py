"""Reads a project's files, each at most once and none through a link."""

import errno
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from server.agents.copies.exclusions import is_secret
from server.agents.copies.listing import LINK, SUBMODULE
from server.agents.copies.objects import BLOB, object_id
from server.agents.copies.stat_index import Signature, signature_of

MAX_FILES = 20_000
MAX_FILE_BYTES = 1024 * 1024
MAX_BYTES = 256 * 1024 * 1024
BINARY_SNIFF = 8 * 1024
OVER_LIMIT = "over_limit"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry(NamedTuple):
    """What was found at a path: the id of a file that may be copied, or why it may not."""

    reason: str
    """Empty for a file that may be copied."""
    signature: Signature | None
    """None where a look at the path tells nothing of it."""
    settled: bool
    """Whether the same signature later means the same entry."""
    blob: bytes = b""
    lines: int = 0

    @property
    def runnable(self) -> bool:
        return self.signature is not None and bool(self.signature.mode & stat.S_IXUSR)


class Sink(Protocol):
    """Takes the files that may be copied, in order of their paths."""

    def write(self, path: str, content: bytes, *, runnable: bool) -> None: ...


def scan(
    project: Path,
    candidates: Mapping[str, str],
    *,
    ignored: set[str],
    known: Mapping[str, Entry],
    object_format: str,
    sink: Sink | None = None,
) -> dict[str, Entry]:
    """What is at each candidate's path, in order; what is gone is not in it.

    `known` are entries of an earlier scan: a file that shows no sign of a write is not read again.
    With a sink every file is read. Raises OSError of the sink, and when the project is gone.
    """
    found: dict[str, Entry] = {}
    files = total = 0
    with _Folders(project) as folders:
        reader = _Reader(object_format, {} if sink else known)
        for path in sorted(candidates):
            reason = "podiumignore" if path in ignored else _reason(path, candidates[path])
            try:
                folder, name = folders.of(path)
                entry, content = reader.look(folder, name, path, reason)
            except (FileNotFoundError, NotADirectoryError):
                if candidates[path] == "S":
                    found[path] = Entry("not_checked_out", None, settled=True)
                continue  # tracked, but deleted in the work tree
            except _Barred as barred:
                entry, content = Entry(str(barred), None, settled=False), b""
            if not entry.reason and entry.signature:
                files += 1
                total += entry.signature.size
                if files > MAX_FILES or total > MAX_BYTES:
                    entry = entry._replace(reason=OVER_LIMIT, blob=b"")
                elif sink:
                    sink.write(path, content, runnable=entry.runnable)
            found[path] = entry
    return found


def _reason(path: str, mode: str) -> str:
    """Why a name alone keeps a file out; empty when it does not."""
    if mode == SUBMODULE:
        return "submodule"
    if mode == LINK:
        return "link"
    return "secret" if is_secret(path) else ""


class _Barred(Exception):
    """A folder on the way to a file is a link, or cannot be opened; the message is the reason."""


class _Reader:
    def __init__(self, object_format: str, known: Mapping[str, Entry]) -> None:
        self._format = object_format
        self._known = known

    def look(self, folder: int, name: str, path: str, reason: str) -> tuple[Entry, bytes]:
        """The entry of a path, and its content where it was read."""
        earlier = self._known.get(path)
        at = time.time_ns()
        if reason or earlier is not None:
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except PermissionError:
                return Entry("unreadable", None, settled=False), b""
            signature = signature_of(status)
            settled = signature.settled(at)
            if earlier is not None and _still(earlier, signature, reason):
                return earlier, b""
            if stat.S_ISLNK(status.st_mode) and reason != "podiumignore":
                reason = "link"
            if reason:
                return Entry(reason, signature, settled), b""
        return self._read(folder, name, at)

    def _read(self, folder: int, name: str, at: int) -> tuple[Entry, bytes]:
        try:
            descriptor = os.open(name, _FILE, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            return _unopened(folder, name, at, error), b""
        try:
            status = os.fstat(descriptor)
            signature = signature_of(status)
            settled = signature.settled(at)
            if not stat.S_ISREG(status.st_mode):
                return Entry("special", signature, settled), b""
            if signature.size > MAX_FILE_BYTES:
                return Entry("too_large", signature, settled), b""
            content = _content(descriptor, signature.size)
        except OSError:
            return Entry("unreadable", None, settled=False), b""
        finally:
            os.close(descriptor)
        if len(content) > MAX_FILE_BYTES:
            return Entry("too_large", signature, settled=False), b""
        if content.find(b"\0", 0, BINARY_SNIFF) >= 0:
            return Entry("binary", signature, settled), b""
        # A file that grows while it is read has the size that was read.
        signature = signature._replace(size=len(content))
        blob = object_id(BLOB, content, self._format)
        return Entry("", signature, settled, blob, lines_in(content)), content


def _still(earlier: Entry, signature: Signature, reason: str) -> bool:
    """Whether an entry holds for a file that looks like this now."""
    if not earlier.settled or earlier.signature != signature:
        return False
    return earlier.reason == reason or (not reason and earlier.reason in _BY_CONTENT)


_BY_CONTENT = frozenset({"", "special", "too_large", "binary", "link"})


def _unopened(folder: int, name: str, at: int, error: OSError) -> Entry:
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except PermissionError:
        # The names of the folder may be read, and nothing else of it.
        return Entry("unreadable", None, settled=False)
    signature = signature_of(status)
    reason = "link" if error.errno in (errno.ELOOP, errno.EMLINK) else "unreadable"
    if error.errno == errno.ENXIO:
        reason = "special"  # a socket
    return Entry(reason, signature, signature.settled(at))


def _content(descriptor: int, size: int) -> bytes:
    """All of a file, but no more than one byte past the limit."""
    content = os.read(descriptor, size + 1)
    if len(content) == size:
        return content
    parts = [content]
    length = len(content)
    while length <= MAX_FILE_BYTES and (more := os.read(descriptor, MAX_FILE_BYTES + 1 - length)):
        parts.append(more)
        length += len(more)
    return b"".join(parts)


def lines_in(content: bytes) -> int:
    """How many lines `lines_of` would find."""
    return content.count(b"\n") + (content[-1:] not in (b"", b"\n"))


class _Folders:
    """The folders of a project, opened one below the other without following a link."""

    def __init__(self, project: Path) -> None:
        self._opened = [("", os.open(project, _FOLDER))]

    def __enter__(self) -> "_Folders":
        return self

    def __exit__(self, *_: object) -> None:
        self._close(0)

    def of(self, path: str) -> tuple[int, str]:
        """The open folder of a path and the name in it.

        Raises _Barred, FileNotFoundError and NotADirectoryError.
        """
        place, slash, name = path.rpartition("/")
        place += slash
        while not place.startswith(self._opened[-1][0]):
            self._close(len(self._opened) - 1)
        here, descriptor = self._opened[-1]
        for part in place[len(here) : -1].split("/") if place != here else ():
            descriptor = self._enter(descriptor, part)
            here = f"{here}{part}/"
            self._opened.append((here, descriptor))
        return descriptor, name

    @staticmethod
    def _enter(folder: int, name: str) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise
            # A link and a file are refused with the same words.
            try:
                mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            except PermissionError:
                raise _Barred("unreadable") from error
            if stat.S_ISLNK(mode):
                raise _Barred("link") from error
            if stat.S_ISDIR(mode):
                raise _Barred("unreadable") from error
            raise NotADirectoryError(name) from error

    def _close(self, down_to: int) -> None:
        while len(self._opened) > down_to:
            os.close(self._opened.pop()[1])
