"""What is under review at the moment of launch: everything a plan is decided from."""

from collections.abc import Mapping

from msgspec import Struct

from flows.facts import TreeView
from protocol.ids import ProjectId
from protocol.plan import Endpoint, ScopeFile, Tree


class RoleModel(Struct, frozen=True, kw_only=True):
    """The model that the settings give one role."""

    endpoint: Endpoint
    context_tokens: int | None


class Situation(Struct, frozen=True, kw_only=True):
    """The pinned tree, the files in scope before any cap, and where the model answers."""

    project_id: ProjectId
    tree: Tree
    view: TreeView
    kind: str
    """As `Scope.kind`."""
    description: str
    files: list[ScopeFile]
    endpoint: Endpoint
    base: str | None = None
    deleted: list[str] = []
    diff: Mapping[str, str] = {}
    """The patch of each changed path; empty when no change is under review."""
    context_tokens: int | None = None
    """The model's window; None when nobody knows it."""
    roles: Mapping[str, RoleModel] = {}
    """The roles that have a model of their own."""
