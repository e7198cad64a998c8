"""The ids of findings: given once, in plan order, and never changed."""

import re

from flows.model import PREFIXES

_CITED = re.compile(
    rf"(?<![\w-])(?P<prefix>{'|'.join(sorted(PREFIXES))})(?:-[1-9]\d*)?-\d{{2,}}(?![\w-])", re.ASCII
)


def finding_id(prefix: str, index: int | None, ordinal: int) -> str:
    """Return the id of a step's finding: `SEC-01`, or `JUN-2-01` for the second of a fan-out.

    `ordinal` counts from 1 within the step.
    """
    place = prefix if index is None else f"{prefix}-{index}"
    return f"{place}-{ordinal:02d}"


def prefix_of(finding_id: str) -> str:
    """Return the prefix of an id: `JUN` for `JUN-2-01`."""
    return finding_id.partition("-")[0]


def cited_ids(prose: str) -> list[str]:
    """Return the finding ids that `prose` names, each once, in the order of their first place.

    Only the known prefixes make an id: `CVE-2024-01` is none.
    """
    return list(dict.fromkeys(match[0] for match in _CITED.finditer(prose)))
