"""What `podium doctor` says: one line for each thing that it looked at."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One line of the examination. Without `required` a ✗ does not stop podium from working."""

    name: str
    well: bool
    says: str
    hint: str | None = None
    required: bool = True


def warning(name: str, says: str, hint: str | None = None) -> Finding:
    """What somebody should know, and podium works in spite of."""
    return Finding(name, False, says, hint, required=False)
