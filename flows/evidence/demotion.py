"""What a finding loses when something speaks against it: one step of severity, visibly."""

import msgspec

from protocol.report import Finding, FindingState, Severity

_ONE_LOWER = {
    Severity.CRITICAL: Severity.WARNING,
    Severity.WARNING: Severity.SUGGESTION,
    Severity.SUGGESTION: Severity.SUGGESTION,
}


def demote(finding: Finding, why: str) -> Finding:
    """Return the finding one severity lower, with `why` among its notes.

    A suggestion stays one. What is unverified stays unverified: that says more.
    """
    unverified = finding.state is FindingState.UNVERIFIED
    return noted(
        msgspec.structs.replace(
            finding,
            severity=_ONE_LOWER[finding.severity],
            state=finding.state if unverified else FindingState.DEMOTED,
        ),
        f"demoted from {finding.severity.value}: {why}",
    )


def noted(finding: Finding, note: str) -> Finding:
    return msgspec.structs.replace(finding, notes=[*finding.notes, note])
