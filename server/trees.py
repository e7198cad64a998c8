"""The pinned copies that the settings ask for."""

from pathlib import Path

from server.agents.copies.trees import PinnedTrees
from server.settings import Settings


def trees_of(settings: Settings) -> PinnedTrees:
    """The cache of pinned copies below DIR. Blocks: it looks the folders up."""
    return PinnedTrees(
        settings.directory.resolve(),
        limit=settings.trees_mib * 1024 * 1024,
        roots=[Path(root).expanduser().resolve() for root in settings.project_roots],
    )
