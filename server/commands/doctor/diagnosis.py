"""What `podium doctor` says: one line for each thing that it looked at. (A finding is what a review
has.)"""

from typing import NamedTuple


class Diagnosis(NamedTuple):
    """One line of the examination. Without `required` a ✗ does not stop podium from working."""

    name: str
    well: bool
    says: str
    hint: str | None = None
    required: bool = True


def warning(name: str, says: str, hint: str | None = None) -> Diagnosis:
    """What somebody should know, and podium works in spite of."""
    return Diagnosis(name, False, says, hint, required=False)
