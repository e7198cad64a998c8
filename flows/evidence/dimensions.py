"""Rule 8: a role says something of every dimension it was to cover, even that it found nothing."""

from collections.abc import Sequence

from flows.outputs import FindingsOutput


def silent(answer: FindingsOutput, dimensions: Sequence[str]) -> list[str]:
    """Return the dimensions that the answer neither has a finding in nor clears.

    Names are compared without regard to case; one may be part of the other.
    """
    named = [finding.category.casefold() for finding in answer.findings]
    named += [cleared.dimension.casefold() for cleared in answer.cleared]
    return [
        dimension
        for dimension in dimensions
        if not any(dimension.casefold() in name or name in dimension.casefold() for name in named)
    ]
