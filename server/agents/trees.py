"""The port to pinned copies: from a project and an invocation to what a plan is made from."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from flows.situation import Situation
from flows.slash import Invocation
from protocol.errors import ErrorCode, ProtocolError
from protocol.plan import Tree
from protocol.resources import Project
from server.agents.changes import BadScope, find_changes
from server.agents.git import GitError
from server.agents.snapshot import Pinned, lines_of, pin
from server.ports import Probe

MAX_SHOWN = 50
"""Paths that a plan names of what was left out; the rest is counted."""
CACHED_FILES = 512


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

    def __init__(self, data: Path) -> None:
        """`data` is DIR, resolved."""
        self._data = data

    async def check(self, path: Path) -> Path:
        return await asyncio.to_thread(self._check, path)

    async def situation(self, project: Project, invocation: Invocation, probe: Probe) -> Situation:
        return await asyncio.to_thread(self._situation, project, invocation, probe)

    def root(self, tree_id: str) -> Path:
        return self._data / "trees" / tree_id

    def view(self, tree_id: str) -> PinnedView:
        return PinnedView(self.root(tree_id))

    async def exists(self, tree_id: str) -> bool:
        return await asyncio.to_thread(self.root(tree_id).is_dir)

    def _check(self, path: Path) -> Path:
        """Refuse what cannot be a project; DIR inside it would make podium review itself."""
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
        if resolved.is_relative_to(self._data):
            raise _refused(path, f"lies inside podium's data directory {self._data}")
        if self._data.is_relative_to(resolved):
            raise _refused(path, f"contains podium's data directory {self._data}")
        return resolved

    def _situation(self, project: Project, invocation: Invocation, probe: Probe) -> Situation:
        path = self._check(Path(project.path))
        inputs = invocation.inputs
        try:
            pinned = pin(path, self._data)
            changes = find_changes(
                pinned,
                base=inputs.get("base"),
                paths=inputs.get("paths") or [],
                exclude=invocation.exclude,
            )
        except BadScope as error:
            raise ProtocolError(
                ErrorCode.BAD_ARGUMENTS, str(error), field=f"input.{error.field}"
            ) from error
        except (GitError, OSError) as error:
            raise ProtocolError(
                ErrorCode.BAD_ARGUMENTS,
                f"the project cannot be copied: {error}",
                field="project_id",
                hint="`podium doctor` looks for the cause",
            ) from error
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


def _tree(pinned: Pinned) -> Tree:
    shown = [f"{path}: {reason}" for path, reason in pinned.left_out[:MAX_SHOWN]]
    return Tree(
        id=pinned.tree_id,
        files=len(pinned.files),
        left_out=pinned.left_out_counts(),
        left_out_paths=shown,
        head=pinned.head,
        branch=pinned.repository.branch() if pinned.repository else None,
        notes=list(pinned.notes),
    )


def _refused(path: Path, why: str) -> ProtocolError:
    shown = str(path).encode("utf-8", "replace").decode()
    return ProtocolError(
        ErrorCode.BAD_ARGUMENTS,
        f"the project {shown} {why}",
        field="path",
        hint="name a folder that podium may read, outside its data directory",
    )
