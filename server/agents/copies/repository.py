"""A user's repository, found and looked at with Python alone: nothing of it runs or is written.

What leads out of it without a way back (a `.git` file, a common directory, links in place of its
folders) is not followed.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from server.agents.copies.git import GitError, PrivateGit, config_of

SMALL_FILE = 64 * 1024
CONFIG_BYTES = 1024 * 1024
SHARED_INDEX_BYTES = 256 * 1024 * 1024
ALTERNATES, DEPTH = 16, 5
"""Object stores that a repository may borrow from, in all and in a row."""

Kind = Callable[[int], bool]

_STORE_FOLDERS = frozenset({*(f"{number:02x}" for number in range(256)), "pack"})
_HEAD = re.compile(rb"ref: refs/[^\s]+\s*|[0-9a-f]{40,64}\s*")


class Repository(NamedTuple):
    """Where the parts of a repository lie, as seen from a folder of its work tree."""

    folder: Path
    top: Path
    git: Path
    """Of this work tree: HEAD and the index."""
    common: Path
    """Of all its work trees: references and objects."""
    object_format: str

    @property
    def prefix(self) -> str:
        """The folder below the top; empty at the top."""
        shown = self.folder.relative_to(self.top).as_posix()
        return "" if shown == "." else shown

    @property
    def index_file(self) -> Path:
        return self.git / "index"

    @property
    def exclude(self) -> Path:
        return self.common / "info" / "exclude"

    def branch(self) -> str | None:
        """The branch that HEAD is on, whether or not it has a commit."""
        text = _head(self.git).decode("utf-8", "replace").strip()
        return (
            text.removeprefix("ref: refs/heads/") if text.startswith("ref: refs/heads/") else None
        )

    def head_commit(self) -> str | None:
        """The commit of HEAD, where two small files tell; None where only git can. Raises
        GitError."""
        text = _head(self.git).decode().strip()
        if text.startswith("ref: ") and ".." not in text:
            try:
                text = read_small(self.common / text.removeprefix("ref: ")).decode().strip()
            except (GitError, UnicodeDecodeError):
                return None
        return text if re.fullmatch("[0-9a-f]{40,64}", text) else None


def find_repository(folder: Path) -> Repository | None:
    """The repository that a resolved folder lies in; None when it lies in none.

    Raises GitError when there is one that cannot be read, or that leads elsewhere.
    """
    for top in (folder, *folder.parents):
        link = top / ".git"
        git = _git_directory(link)
        if git is not None:
            if ".git" in folder.relative_to(top).parts:
                return None
            common = _common(git)
            values = _configuration(common)
            if not git.is_relative_to(top) and not _points_back(git, common, link, values):
                raise GitError(f"{link} leads to {git}, which does not lead back")
            if values.get("extensions.refstorage", "files") != "files":
                raise GitError("its references are in a format that podium does not read")
            _head(git)
            if os.path.lexists(git / "index") and not _is(git / "index", stat.S_ISREG):
                raise GitError(f"{git / 'index'} is no plain file")
            return Repository(
                folder, top, git, common, values.get("extensions.objectformat", "sha1")
            )
    return None


def connect(private: PrivateGit, repository: Repository) -> None:
    """Let the private directory see the repository's HEAD, references and shared index as they are
    now. Raises GitError and OSError."""
    _replace(private.directory / "HEAD", _head(repository.git))
    _link(private.directory / "refs", repository.common / "refs", stat.S_ISDIR)
    _link(private.directory / "packed-refs", repository.common / "packed-refs", stat.S_ISREG)
    _copy_shared_indexes(repository.git, private.directory)
    patterns = repository.git / "info" / "sparse-checkout"
    if _is(patterns, stat.S_ISREG):
        _replace(
            private.directory / "info" / "sparse-checkout", read_small(patterns, limit=CONFIG_BYTES)
        )


def lend(private: PrivateGit, repository: Repository, roots: Sequence[Path]) -> list[str]:
    """Let the private directory see the repository's objects; returns what a person should know of
    where they lie.

    With `roots`, objects are borrowed from below them alone. Raises GitError and OSError.
    """
    stores, notes = _object_stores(repository.common / "objects", roots)
    views = [_view(private.directory / "borrowed", store) for store in stores]
    borrowed = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": ":".join(_quoted(view) for view in views)}
    shallow = repository.common / "shallow"
    if _is(shallow, stat.S_ISREG):
        borrowed["GIT_SHALLOW_FILE"] = str(shallow)
    private.borrowed = borrowed
    return notes


# --- finding it ---------------------------------------------------------------------------------


def _git_directory(link: Path) -> Path | None:
    """What a `.git` stands for; None when it is none. A broken link raises GitError."""
    try:
        mode = link.lstat().st_mode
    except OSError:
        return None
    if stat.S_ISDIR(mode):
        return link if _is_git(link) else None
    if stat.S_ISLNK(mode):
        target = link.resolve()
    elif stat.S_ISREG(mode):
        text = os.fsdecode(read_small(link))
        if not text.startswith("gitdir: "):
            raise GitError(f"{link} names no git directory")
        target = (link.parent / text.removeprefix("gitdir: ").rstrip("\r\n")).resolve()
    else:
        return None
    if not _is_git(target):
        raise GitError(f"{link} leads to {target}, which is no git directory")
    return target


def _is_git(place: Path) -> bool:
    return (place / "HEAD").is_file() and (
        _is(place / "commondir", stat.S_ISREG)
        or (_is(place / "objects", stat.S_ISDIR) and _is(place / "refs", stat.S_ISDIR))
    )


def _common(git: Path) -> Path:
    """Only a linked work tree has its references and objects elsewhere: two folders up."""
    if not _is(git / "commondir", stat.S_ISREG):
        return git
    named = os.fsdecode(read_small(git / "commondir")).rstrip("\r\n")
    common = (git / named).resolve()
    if git.parent != common / "worktrees" or not _is_git(common):
        raise GitError(f"{git} takes its objects from {common}, which is not its own")
    return common


def _configuration(common: Path) -> dict[str, str]:
    file = common / "config"
    if not _is(file, stat.S_ISREG):
        return {}
    if file.lstat().st_size > CONFIG_BYTES:
        raise GitError(f"{file} is too large")
    return config_of(file)


def _points_back(git: Path, common: Path, link: Path, values: dict[str, str]) -> bool:
    """Whether a git directory outside the work tree knows of it, as git's own do."""
    if git != common:
        back = git / "gitdir"
        if not _is(back, stat.S_ISREG):
            return False
        named = git / os.fsdecode(read_small(back)).rstrip("\r\n")
        return named.parent.resolve() / named.name == link
    # The git directory of a submodule lies in that of the repository around it.
    worktree = values.get("core.worktree")
    return worktree is not None and (git / worktree).resolve() == link.parent


def _head(git: Path) -> bytes:
    head = git / "HEAD"
    # A link is how git wrote it long ago.
    linked = head.is_symlink()
    text = b"ref: " + os.fsencode(os.readlink(head)) if linked else read_small(head)
    if not _HEAD.fullmatch(text):
        raise GitError(f"{head} names no branch and no commit")
    return text


# --- what is lent to the private directory ------------------------------------------------------


def _copy_shared_indexes(git: Path, private: Path) -> None:
    """The other half of a split index. A copy: git touches the time of one that it reads."""
    names = {it.name for it in os.scandir(git) if it.name.startswith("sharedindex.")}
    known = {it.name for it in os.scandir(private) if it.name.startswith("sharedindex.")}
    for name in known - names:
        (private / name).unlink(missing_ok=True)
    for name in names - known:
        if _is(git / name, stat.S_ISREG):
            _replace(private / name, read_small(git / name, limit=SHARED_INDEX_BYTES))


def _object_stores(objects: Path, roots: Sequence[Path]) -> tuple[list[Path], list[str]]:
    stores = [objects] if _is(objects, stat.S_ISDIR) else []
    notes = []
    for place in _alternates(objects, depth=0):
        if place in stores or len(stores) > ALTERNATES:
            continue
        if roots and not any(place.is_relative_to(root) for root in roots):
            notes.append(f"objects in {place} are not used: it is below no project root")
            continue
        notes.append(f"objects are borrowed from {place}")
        stores.append(place)
    return stores, notes


def _alternates(objects: Path, *, depth: int) -> Iterator[Path]:
    listed = objects / "info" / "alternates"
    if depth == DEPTH or not _is(listed, stat.S_ISREG):
        return
    for line in read_small(listed).split(b"\n"):
        if line and not line.startswith((b"#", b'"')):
            place = (objects / os.fsdecode(line)).resolve()
            if _is(place, stat.S_ISDIR):
                yield place
                yield from _alternates(place, depth=depth + 1)


def _view(folder: Path, store: Path) -> Path:
    """An object store as git may see it: only its own folders, and nothing of `info`, which could
    name further stores."""
    view = folder / sha256(os.fsencode(store)).hexdigest()[:16]
    view.mkdir(parents=True, exist_ok=True)
    own = {entry.name for entry in os.scandir(store) if entry.is_dir(follow_symlinks=False)}
    if "pack" in own and any(entry.is_symlink() for entry in list(os.scandir(store / "pack"))):
        own.remove("pack")
    wanted = own & _STORE_FOLDERS
    there = {entry.name for entry in os.scandir(view)}
    for name in wanted - there:
        (view / name).symlink_to(store / name)
    for name in there - wanted:
        (view / name).unlink(missing_ok=True)
    return view


def _quoted(place: Path) -> str:
    """As git reads one of several paths in an environment variable."""
    text = str(place).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def _link(place: Path, target: Path, kind: Kind) -> None:
    """Make `place` a link to a part of the repository; to nothing where that is not of its kind."""
    wanted = str(target) if _is(target, kind) else "nowhere"
    if place.is_symlink() and os.readlink(place) == wanted:
        return
    fresh = place.with_name(f".new-{place.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(wanted)
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    fresh.replace(place)


def _replace(place: Path, content: bytes) -> None:
    try:
        if place.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    fresh = place.with_name(f".new-{place.name}")
    fresh.write_bytes(content)
    fresh.replace(place)


def _is(place: Path, kind: Kind) -> bool:
    """Whether there is something of a kind itself, and no link to it."""
    try:
        return kind(place.lstat().st_mode)
    except (OSError, ValueError):
        return False


def read_small(file: Path, *, limit: int = SMALL_FILE) -> bytes:
    """A plain file of a repository or project; raises GitError when it is not one, or larger."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as opened:
            content = opened.read(limit + 1)
    except OSError as error:
        raise GitError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise GitError(f"{file} is too large")
    return content
