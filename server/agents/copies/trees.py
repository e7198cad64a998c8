"""The port to pinned copies: from a project and an invocation to what a plan is made from."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path

from flows.situation import Situation
from flows.slash import Invocation
from protocol.errors import ErrorCode, ProtocolError
from protocol.plan import Tree
from protocol.resources import Project
from server.agents.copies.changes import BadScope, Changes, find_changes
from server.agents.copies.git import GitError
from server.agents.copies.pinned import Pinned, lines_of
from server.agents.copies.snapshot import NO_LIMIT, Snapshots
from server.ports import Probe

MAX_SHOWN = 50
"""Paths that a plan names of what was left out; the rest is counted."""
MAX_PATHS, MAX_PATHS_LENGTH = 200, 16 * 1024
"""Files that a plan names one by one, and the length of their names in all; past that it counts
them by folder."""
MAX_FOLDERS = 100
CACHED_FILES = 512
SHOWN_PATH = 200
"""Characters of somebody's path that an error repeats."""


class PinnedView:
    """A pinned copy for pure code."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths: dict[str, None] | None = None
        self._read = lru_cache(CACHED_FILES)(self._read_lines)

    def paths(self) -> Sequence[str]:
        return list(self._known())

    def lines(self, path: str) -> Sequence[str] | None:
        return self._read(path)

    def _known(self) -> Mapping[str, None]:
        if self._paths is None:
            found = (path for path in self._root.rglob("*") if path.is_file())
            names = sorted(path.relative_to(self._root).as_posix() for path in found)
            self._paths = dict.fromkeys(names)
        return self._paths

    def _read_lines(self, path: str) -> Sequence[str] | None:
        # Only by the names of the copy: an absolute path would leave it.
        return lines_of((self._root / path).read_bytes()) if path in self._known() else None


class PinnedTrees:
    """Keeps copies below DIR/trees, one per tree id."""

    def __init__(self, data: Path, *, limit: int = NO_LIMIT, roots: Sequence[Path] = ()) -> None:
        """`data` is DIR, resolved; `limit` the bytes that copies may take; `roots`, resolved, the
        folders that projects must lie below, if any are named."""
        self._data = data
        self._roots = tuple(roots)
        self._snapshots = Snapshots(data, limit=limit, roots=self._roots)
        self._copies = self._snapshots.copies

    def clean(self) -> None:
        """At a start: remove what a crash has left. Blocks."""
        self._snapshots.clean()

    async def check(self, path: Path) -> Path:
        return await asyncio.to_thread(self._check, path)

    async def situation(self, project: Project, invocation: Invocation, probe: Probe) -> Situation:
        return await asyncio.to_thread(self._situation, project, invocation, probe)

    def root(self, tree_id: str) -> Path:
        return self._copies.root(tree_id)

    def view(self, tree_id: str) -> PinnedView:
        return PinnedView(self.root(tree_id))

    async def exists(self, tree_id: str) -> bool:
        return await asyncio.to_thread(self._copies.find, tree_id)

    def hold(self, tree_id: str) -> AbstractContextManager[None]:
        return self._copies.hold(tree_id)

    def keep(self) -> AbstractContextManager[None]:
        return self._copies.keep()

    def _check(self, path: Path) -> Path:
        """Refuse what cannot be a project; DIR inside it would make podium review itself."""
        resolved = _resolved(path)
        if resolved.is_relative_to(self._data):
            raise _refused(path, f"lies inside podium's data directory {self._data}")
        if self._data.is_relative_to(resolved):
            raise _refused(path, f"contains podium's data directory {self._data}")
        if self._roots and not any(resolved.is_relative_to(root) for root in self._roots):
            raise ProtocolError(
                ErrorCode.FORBIDDEN,
                f"the project {_text(path)} lies below none of the folders in `project_roots`",
                field="path",
                hint=f"move it below {self._roots[0]}, or add its folder to `project_roots`",
            )
        return resolved

    def _situation(self, project: Project, invocation: Invocation, probe: Probe) -> Situation:
        pinned, changes = self._pinned(self._check(Path(project.path)), invocation)
        return Situation(
            project_id=project.id,
            tree=_tree(pinned),
            view=self.view(pinned.tree_id),
            kind=changes.kind,
            description=changes.description,
            files=changes.files,
            endpoint=probe.public,
            base=changes.base,
            deleted=list(changes.deleted),
            diff=changes.patches or {},
            context_tokens=probe.context_tokens,
        )

    def _pinned(self, path: Path, invocation: Invocation) -> tuple[Pinned, Changes]:
        """A copy of the project as it is now, and what of it is under review. Raises
        ProtocolError."""
        inputs = invocation.inputs
        try:
            with self._snapshots.alone(path):
                pinned = self._snapshots.pin(path)
                return pinned, find_changes(
                    pinned,
                    base=inputs.get("base"),
                    paths=inputs.get("paths") or [],
                    exclude=invocation.exclude,
                )
        except BadScope as error:
            raise ProtocolError(
                ErrorCode.BAD_ARGUMENTS,
                str(error),
                field=f"input.{error.field}",
                hint=error.hint if invocation.band is None else None,
            ) from error
        except (GitError, OSError) as error:
            raise ProtocolError(
                ErrorCode.BAD_ARGUMENTS,
                f"the project cannot be copied: {error}",
                field="project_id",
                hint="`podium doctor` looks for the cause",
            ) from error


def _tree(pinned: Pinned) -> Tree:
    shown = [f"{path}: {reason}" for path, reason in pinned.left_out[:MAX_SHOWN]]
    paths = [file.path for file in pinned.files]
    few = len(paths) <= MAX_PATHS and sum(map(len, paths)) <= MAX_PATHS_LENGTH
    return Tree(
        id=pinned.tree_id,
        files=len(pinned.files),
        left_out=pinned.left_out_counts(),
        left_out_paths=shown,
        bytes=sum(file.size for file in pinned.files),
        paths=paths if few else [],
        folders={} if few else _folders(paths),
        head=pinned.head,
        branch=pinned.repository.branch() if pinned.repository else None,
        notes=list(pinned.notes),
    )


def _folders(paths: Sequence[str]) -> dict[str, int]:
    """How many of the paths lie below each folder at the top: the largest ones by name."""
    counts = Counter(path.partition("/")[0] if "/" in path else "." for path in paths)
    largest = counts.most_common(MAX_FOLDERS)
    named = dict(sorted(largest))
    rest = len(paths) - sum(named.values())
    return {**named, "…": rest} if rest else named


def _resolved(path: Path) -> Path:
    """Where a folder that can be read really lies. Raises ProtocolError."""
    if not path.is_absolute():
        raise ProtocolError(
            ErrorCode.BAD_ARGUMENTS,
            f"the project {_text(path)} is no absolute path",
            field="path",
            hint="name the folder as the server's machine has it, from `/` on",
        )
    try:
        str(path).encode()
        resolved = path.resolve()
        next(resolved.iterdir(), None)
    except FileNotFoundError as error:
        raise _refused(path, "does not exist") from error
    except NotADirectoryError as error:
        raise _refused(path, "is not a folder") from error
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RuntimeError) as error:
        # A NUL, no UTF-8, or a ring of links.
        raise _refused(path, "has a name that cannot be used") from error
    return resolved


def _text(path: Path) -> str:
    """For a message: no longer than a person reads."""
    text = str(path).encode("utf-8", "replace").decode()
    return text if len(text) <= SHOWN_PATH else f"{text[:SHOWN_PATH]}…"


def _refused(path: Path, why: str) -> ProtocolError:
    return ProtocolError(
        ErrorCode.BAD_ARGUMENTS,
        f"the project {_text(path)} {why}",
        field="path",
        hint="name a folder that podium may read, outside its data directory",
    )
