"""Rule 8: a role says something of every dimension it was to cover, even that it found nothing."""

import re
from collections.abc import Sequence

from flows.outputs import ClearedDimension, FindingsOutput

_UNSEEN = re.compile(
    r"\b(?:nothing (?:was|could be) (?:looked (?:at|for)|reviewed|examined|inspected|read)"
    r"|not (?:looked (?:at|for|into)|reviewed|examined|inspected)"
    r"|(?:did|could) not (?:look|review|examine|inspect))\b",
    re.IGNORECASE,
)
"""An answer that says of itself that nothing was done. Words about what the code does are not
meant: `is not checked` and `nothing is read` say something of it."""
MIN_LABEL = 3
"""Characters below which a label names nothing."""


def silent(answer: FindingsOutput, dimensions: Sequence[str]) -> list[str]:
    """Return the dimensions that the answer neither has a finding in nor clears.

    Names are compared without regard to case; one may be part of the other.
    """
    labels = [finding.category for finding in answer.findings]
    labels += [cleared.dimension for cleared in answer.cleared]
    named = [label.strip().casefold() for label in labels if len(label.strip()) >= MIN_LABEL]
    return [
        dimension
        for dimension in dimensions
        if not any(dimension.casefold() in name or name in dimension.casefold() for name in named)
    ]


def seen(cleared: ClearedDimension) -> bool:
    """Return whether a dimension was looked at, by its own note: else it is no cleared one."""
    return _UNSEEN.search(cleared.note) is None
