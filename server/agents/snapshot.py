"""The pinned copy: the tree as it is now, dirty files included, written once per tree id.

The project gets no write at all. Links are not followed, secrets and what git ignores are not
copied, and everything that was left out is counted.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from server.agents.exclusions import IGNORED_FOLDERS, is_secret
from server.agents.git import GitError, PrivateGit, Repository

MAX_FILES = 20_000
MAX_FILE_BYTES = 1024 * 1024
MAX_BYTES = 256 * 1024 * 1024
BINARY_SNIFF = 8 * 1024
LINK, SUBMODULE = "120000", "160000"


class PinnedFile(NamedTuple):
    path: str
    lines: int


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
        return hidden | _podiumignored(self.path, self.private, paths)

    def left_out_counts(self) -> dict[str, int]:
        return dict(sorted(Counter(reason for _, reason in self.left_out).items()))


class _Skip(Exception):
    """A file is left out; the message is the reason."""


def pin(project: Path, data: Path) -> Pinned:
    """Copy the project's tree below `data` and name it by its git tree id.

    Raises OSError when the copy cannot be written, GitError when git does not work.
    """
    trees = data / "trees"
    trees.mkdir(parents=True, exist_ok=True)
    repository, notes = _repository(project)
    object_format = repository.object_format if repository else "sha1"
    name = f"{hashlib.sha256(os.fsencode(project)).hexdigest()[:16]}-{object_format}.git"
    private = PrivateGit(data / "git" / name, repository=repository, object_format=object_format)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=trees))
    try:
        files, left_out = _copy_all(project, staging, repository, private)
        index = staging.with_name(f"{staging.name}.index")
        try:
            tree_id = private.write_tree(staging, [file.path for file in files], index=index)
        finally:
            index.unlink(missing_ok=True)
        path = _settle(staging, trees / tree_id)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    head = repository.head() if repository else None
    return Pinned(
        tree_id, path, tuple(files), tuple(sorted(left_out)), private, repository, head, notes
    )


def _repository(project: Path) -> tuple[Repository | None, tuple[str, ...]]:
    try:
        repository = Repository(project)
    except GitError as error:
        broken = (project / ".git").exists()
        note = (f"git cannot read this repository, so it was taken as a folder: {error}",)
        return None, note if broken else ()
    # A hostile core.worktree points elsewhere: only what is below the project is listed.
    if not project.is_relative_to(repository.top.resolve()):
        return None, ("the repository's work tree lies elsewhere, so it was taken as a folder",)
    return repository, ()


def _copy_all(
    project: Path, staging: Path, repository: Repository | None, private: PrivateGit
) -> tuple[list[PinnedFile], list[tuple[str, str]]]:
    left_out: list[tuple[str, str]] = []
    candidates = _candidates(project, repository, left_out)
    ignored = _podiumignored(project, private, [path for path, _ in candidates])
    files: list[PinnedFile] = []
    total = 0
    for path, mode in sorted(candidates):
        try:
            if path in ignored:
                raise _Skip("podiumignore")
            content, executable = _content(project, path, mode)
            total += len(content)
            if len(files) >= MAX_FILES or total > MAX_BYTES:
                raise _Skip("over_limit")
            target = staging / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            # The right to run is part of a git tree: without it the file would count as changed.
            target.chmod(0o555 if executable else 0o444)
            files.append(PinnedFile(path, len(lines_of(content))))
        except _Skip as skip:
            left_out.append((path, str(skip)))
        except (FileNotFoundError, NotADirectoryError):
            continue  # tracked, but deleted in the work tree
    return files, left_out


def _candidates(
    project: Path, repository: Repository | None, left_out: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """(path, git mode or "") of everything that may be copied."""
    if repository is None:
        return [(path, "") for path in _walked(project, left_out)]
    found = []
    for mode, path in repository.listed():
        # Git lists an untracked nested repository as a folder.
        if path.endswith("/"):
            left_out.append((_shown(path), "nested_repository"))
        else:
            found.append((path, mode))
    return [(path, mode) for path, mode in found if _named_well(path, left_out)]


def _walked(project: Path, left_out: list[tuple[str, str]]) -> Iterator[str]:
    for folder, names, files in os.walk(project, followlinks=False):
        here = Path(folder).relative_to(project)
        for name in sorted(names):
            if name in IGNORED_FOLDERS:
                left_out.append((_shown((here / name).as_posix()), "ignored_folder"))
            elif (Path(folder) / name).is_symlink():
                left_out.append((_shown((here / name).as_posix()), "link"))
        names[:] = sorted(set(names) - IGNORED_FOLDERS)
        for name in sorted(files):
            path = (here / name).as_posix()
            if _named_well(path, left_out):
                yield path


def _named_well(path: str, left_out: list[tuple[str, str]]) -> bool:
    """A name that is no valid UTF-8 cannot be cited, and one that git keeps for itself cannot be
    in a tree, so such a file is left out."""
    try:
        path.encode()
    except UnicodeEncodeError:
        left_out.append((_shown(path), "odd_name"))
        return False
    if ".git" in path.lower().split("/"):
        left_out.append((path, "ignored_folder"))
        return False
    return True


def _shown(path: str) -> str:
    return path.encode("utf-8", "replace").decode()


def _podiumignored(folder: Path, private: PrivateGit, paths: list[str]) -> set[str]:
    """What `.podiumignore` names; git reads its own syntax."""
    patterns = folder / ".podiumignore"
    return private.ignored(paths, patterns=patterns) if patterns.is_file() else set()


def _content(project: Path, path: str, mode: str) -> tuple[bytes, bool]:
    """The bytes of a plain text file of at most MAX_FILE_BYTES, and whether it may be run; raises
    _Skip with the reason."""
    if mode == SUBMODULE:
        raise _Skip("submodule")
    if mode == LINK or _through_link(project, path):
        raise _Skip("link")
    if is_secret(path):
        raise _Skip("secret")
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        descriptor = os.open(project / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise _Skip("unreadable") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Skip("special")
        if status.st_size > MAX_FILE_BYTES:
            raise _Skip("too_large")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise _Skip("too_large")
    if b"\0" in content[:BINARY_SNIFF]:
        raise _Skip("binary")
    return content, bool(status.st_mode & stat.S_IXUSR)


def _through_link(project: Path, path: str) -> bool:
    """Whether the file or a folder on the way to it is a link."""
    place = project
    for part in Path(path).parts:
        place = place / part
        if place.is_symlink():
            return True
    return False


def lines_of(content: bytes) -> list[str]:
    """The lines of a file as its readers number them: parted by newlines and by nothing else.

    `str.splitlines` would part at form feeds too, and every line number behind one would be off.
    """
    lines = content.decode("utf-8", "replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _settle(staging: Path, target: Path) -> Path:
    """Move the copy to its name, unless another pin of the same tree was first."""
    if not target.exists():
        try:
            staging.rename(target)
        except OSError:
            if not target.exists():
                raise
    return target
