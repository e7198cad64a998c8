"""The port to pinned copies of projects."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from flows.facts import TreeView
from flows.situation import Situation
from flows.slash import Invocation
from protocol.resources import Project
from server.ports.agents import Probe


class Trees(Protocol):
    """Pinned copies of projects. No method writes to a project."""

    async def situation(self, project: Project, invocation: Invocation, probe: Probe) -> Situation:
        """Pin the project's tree as it is now and find what the invocation puts under review.

        Raises ProtocolError naming the field when the project or a path cannot be used.
        """
        ...

    async def check(self, path: Path) -> Path:
        """The resolved path of a folder that may be a project; raises ProtocolError, also for a
        relative path and for one outside the `project_roots`."""
        ...

    def root(self, tree_id: str) -> Path:
        """Where the pinned copy lies."""
        ...

    def view(self, tree_id: str) -> TreeView:
        """The pinned copy for pure code. It reads files: call its methods in a thread."""
        ...

    async def exists(self, tree_id: str) -> bool:
        """Whether the copy is there and is still what its id says."""
        ...

    def hold(self, tree_id: str) -> AbstractContextManager[None]:
        """While this is open, the cache does not let go of this copy."""
        ...

    def keep(self) -> AbstractContextManager[None]:
        """While this is open, the cache does not let go of any copy that is pinned, or found to
        exist, meanwhile."""
        ...
