"""What is known of a run so far, and the view of its pinned tree: the inputs of every decision."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from protocol.ids import StepId
from protocol.states import StepStatus


class StepFact(Struct, frozen=True, kw_only=True):
    """The stored state of one step."""

    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    """Attempts started so far."""
    retries: int = 0
    """Attempts that were repeated because of infrastructure."""
    crashes: int = 0
    """Attempts that ended with the server itself."""
    repairs: int = 0
    """Attempts made to repair an unparsable result."""
    reason: str | None = None
    output: Any = None
    """The checked result as JSON types (see `results.py`); None until completed."""
    reused: bool = False
    cancelling: bool = False
    """A person asked for the end of this step; it is not over yet."""
    denied_tools: int = 0


class Facts(Struct, frozen=True, kw_only=True):
    steps: Mapping[StepId, StepFact]
    """Every step of the plan, in plan order."""
    cancelling: bool = False
    finishing: bool = False
    """A person asked for an early end with a report."""


class TreeView(Protocol):
    """The pinned tree. It never changes, so reading it is as good as a value."""

    def paths(self) -> Sequence[str]:
        """Every path, repository-relative with `/`, sorted."""
        ...

    def lines(self, path: str) -> Sequence[str] | None:
        """The lines of a file without their ends, or None when the tree has no such file.

        Bytes that are not UTF-8 read as U+FFFD.
        """
        ...
