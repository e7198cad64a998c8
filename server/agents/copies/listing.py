"""Which files of a project may be copied, and what would change that list."""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from server.agents.copies.exclusions import IGNORED_FOLDERS
from server.agents.copies.git import GitError, PrivateGit, Question
from server.agents.copies.repository import Repository
from server.agents.copies.stat_index import Signature, signature_of

MAX_LISTED = 200_000
MAX_DEPTH = 100
INDEX_BYTES, INDEX_PIECE = 1024**3, 1024**2
"""Some hundred bytes a file: more than any that git would be quick with."""
SUBMODULE, LINK = "160000", "120000"
RULES = ".gitignore"
SPARSE = ("core.sparseCheckout=true", "core.sparseCheckoutCone=true", "index.sparse=true")

Seen = Signature | tuple[int, ...] | None


class Watch(NamedTuple):
    """A place that has a say in the list, and how it was. `whole` False: only what it is counts."""

    place: str
    seen: Seen
    whole: bool = True

    def same(self) -> bool:
        return _seen(self.place, whole=self.whole) == self.seen

    def settled(self, at: int) -> bool:
        return not isinstance(self.seen, Signature) or self.seen.settled(at)


class Listing(NamedTuple):
    candidates: Mapping[str, str]
    """By path relative to the project: git's mode where it is tracked, `?` where it is not, `S`
    where git was told not to check it out."""
    left_out: list[tuple[str, str]]
    """(path, reason) of what is known from its name alone."""
    watches: list[Watch]


def list_folder(project: Path) -> Listing:
    """A project without git: all but the usual folders of tools and of what was built."""
    candidates: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    watches: list[Watch] = [*_no_repository(project), watch(f"{project}/.podiumignore")]
    waiting = [("", 0)]
    while waiting:
        folder, depth = waiting.pop()
        place = f"{project}/{folder}"
        watches.append(watch(place))
        try:
            entries = list(os.scandir(place))
        except OSError:
            left_out.append((folder, "unreadable"))
            continue
        for entry in entries:
            path = f"{folder}{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                candidates[path] = "?"
            elif entry.name in IGNORED_FOLDERS:
                left_out.append((path, "ignored_folder"))
            elif depth == MAX_DEPTH:
                left_out.append((path, "too_deep"))
            else:
                waiting.append((f"{path}/", depth + 1))
        _check_number(candidates)
    return Listing(_named_well(candidates, left_out), left_out, watches)


def list_repository(project: Path, repository: Repository, private: PrivateGit) -> Listing:
    """What git tracks, and what it neither tracks nor ignores."""
    asked = ask_files(
        repository, private, "--stage", "--cached", "--others", index=repository.index_file
    )
    candidates: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    for entry in asked.answer().decode("utf-8", "surrogateescape").split("\0"):
        if entry.startswith("? "):
            path = entry[2:]
            # Git lists an untracked nested repository as a folder.
            if path.endswith("/"):
                left_out.append((path, "nested_repository"))
            else:
                candidates[path] = "?"
        elif entry:
            facts, _, path = entry.partition("\t")
            skipped = facts.startswith("S ")
            if path.endswith("/"):
                left_out.append((path, "not_checked_out"))
            else:
                candidates[path] = "S" if skipped else facts[2:8]
    _check_number(candidates)
    watches = list(_watches_of(project, repository, candidates))
    return Listing(_named_well(candidates, left_out), left_out, watches)


def ask_files(repository: Repository, private: PrivateGit, *options: str, index: Path) -> Question:
    """`git ls-files` with tags and the repository's own rules of what is ignored."""
    rules = [f"--exclude-per-directory={RULES}"]
    sparse = _sparse(index)
    if sparse:
        rules.append("--sparse")
    if _plain(repository.exclude):
        rules.append(f"--exclude-from={repository.exclude}")
    return private.start(
        *("ls-files", "-z", "-t", *options, *rules),
        cwd=repository.folder,
        extra={"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(repository.top)},
        settings=SPARSE if sparse else (),
        borrowing=False,
    )


def _sparse(index: Path) -> bool:
    """Whether whole folders of an index are one entry each. Git would write trees to fill them in,
    and touch the time of those that it has."""
    last, size = b"", 0
    try:
        # Piece by piece: its size is the repository's to choose.
        with index.open("rb") as file:
            while piece := file.read(INDEX_PIECE):
                if b"sdir" in last + piece:
                    return True
                last = piece[-3:]
                size += len(piece)
                if size > INDEX_BYTES:
                    raise GitError(f"{index} is too large")
    except OSError:
        return False
    return False


def folders_of(paths: Iterable[str]) -> set[str]:
    """Every folder on the way to the paths, without the project's own."""
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _check_number(candidates: Mapping[str, str]) -> None:
    if len(candidates) > MAX_LISTED:
        raise GitError(f"it has more than {MAX_LISTED:,} files; name a folder in it instead")


def _named_well(
    candidates: Mapping[str, str], left_out: list[tuple[str, str]]
) -> Mapping[str, str]:
    """A name that is no valid UTF-8 cannot be cited, and one that git keeps for itself cannot be
    in a tree, so such a file is left out."""
    odd = [path for path in candidates if not path.isascii() and not _is_text(path)]
    ours = [path for path in candidates if ".git" in path.lower() and _has_git(path)]
    deep = [path for path in candidates if path.count("/") > MAX_DEPTH]
    left_out += [(path, "odd_name") for path in odd]
    left_out += [(path, "ignored_folder") for path in ours]
    left_out += [(path, "too_deep") for path in deep]
    out = {*odd, *ours, *deep}
    if not out:
        return candidates
    return {path: mode for path, mode in candidates.items() if path not in out}


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_git(path: str) -> bool:
    return ".git" in path.lower().split("/")


# --- what has a say -----------------------------------------------------------------------------


def _watches_of(project: Path, repository: Repository, paths: Iterable[str]) -> Iterator[Watch]:
    yield watch(f"{project}/.podiumignore")
    for file in (repository.index_file, repository.exclude, repository.common / "config"):
        yield watch(str(file))
    for file in (repository.git / "commondir", repository.git / "gitdir"):
        yield watch(str(file))
    yield watch(str(repository.top / ".git"), whole=False)
    above = project
    while above != repository.top:
        yield watch(f"{above}/.git", whole=False)
        above = above.parent
        yield watch(f"{above}/{RULES}")
    yield watch(f"{project}/{RULES}")
    for folder in folders_of(paths):
        place = f"{project}/{folder}"
        yield watch(place, whole=False)
        yield watch(f"{place}/{RULES}")


def _no_repository(project: Path) -> Iterator[Watch]:
    for place in (project, *project.parents):
        yield watch(f"{place}/.git", whole=False)


def watch(place: str, *, whole: bool = True) -> Watch:
    """How a place is now."""
    return Watch(place, _seen(place, whole=whole), whole)


def _seen(place: str, *, whole: bool) -> Seen:
    try:
        status = os.lstat(place)
    except (OSError, ValueError):
        return None
    if whole:
        return signature_of(status)
    return stat.S_IFMT(status.st_mode), status.st_ino, status.st_dev


def _plain(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.lstat().st_mode)
    except OSError:
        return False
