"""Rule 12, first part: a finding that only could be so weighs less."""

import re
from collections.abc import Sequence

from flows.evidence.demotion import demote
from protocol.report import Finding, FindingState

EXEMPT_ROLES = frozenset({"security"})
"""An attack that nobody has made yet is what these roles are for."""

_HEDGE = re.compile(
    r"(?<!\bnot )(?<!\bmerely )(?<!\bjust )(?<!\bonly )"
    r"\b(theoretical(ly)?|hypothetical(ly)?|in theory|in principle|conceivabl[ey]"
    r"|defen[cs]e[- ]in[- ]depth|effectively impossible|should never happen)\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"")
"""What is quoted are the words of the code, not of the agent."""


def hedge_in(finding: Finding) -> str | None:
    """Return the first phrase by which the finding says that it may not be real."""
    for text in (finding.title, finding.claim, finding.impact):
        match = _HEDGE.search(_QUOTED.sub("", " ".join(text.split())))
        if match is not None:
            return match[0].lower()
    return None


def demote_hedged(findings: Sequence[Finding]) -> list[Finding]:
    """Demote, once, each open finding that hedges."""
    return [_weighed(finding) for finding in findings]


def _weighed(finding: Finding) -> Finding:
    if finding.state is not FindingState.OPEN or finding.role in EXEMPT_ROLES:
        return finding
    phrase = hedge_in(finding)
    return finding if phrase is None else demote(finding, f"it says `{phrase}`")
