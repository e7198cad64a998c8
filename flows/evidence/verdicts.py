"""Rule 11: every submitted finding gets one verdict, and a verdict needs evidence to drop it."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import assert_never

import msgspec

from flows.evidence.citations import Checker
from flows.evidence.demotion import demote, noted
from flows.evidence.schema import VerdictError
from flows.outputs import AgentVerdict
from protocol.report import Finding, FindingState, Verdict, VerdictKind


def judge(
    answered: Sequence[AgentVerdict], submitted: Collection[str], checker: Checker
) -> list[Verdict]:
    """Return the verdicts with their citations checked, in the order of the submitted ids.

    Raises VerdictError when an id has no verdict or two, or was never submitted.
    """
    times = Counter(verdict.finding_id for verdict in answered)
    missing = [finding_id for finding_id in submitted if finding_id not in times]
    extra = [finding_id for finding_id in times if finding_id not in submitted]
    doubled = [finding_id for finding_id, count in times.items() if count > 1]
    if missing or extra or doubled:
        raise VerdictError(missing=missing, extra=extra, doubled=doubled)
    by_id = {verdict.finding_id: verdict for verdict in answered}
    return [_checked(by_id[finding_id], checker) for finding_id in submitted]


def _checked(answered: AgentVerdict, checker: Checker) -> Verdict:
    return Verdict(
        finding_id=answered.finding_id,
        kind=answered.verdict,
        reason=answered.reason,
        citations=[checker.check(cited) for cited in answered.citations],
    )


def reconcile(findings: Sequence[Finding], verdicts: Sequence[Verdict]) -> list[Finding]:
    """Return the findings as the verdicts leave them. One without a verdict stays as it is."""
    by_id: Mapping[str, Verdict] = {verdict.finding_id: verdict for verdict in verdicts}
    return [_after(finding, by_id.get(finding.id)) for finding in findings]


def _after(finding: Finding, verdict: Verdict | None) -> Finding:
    if verdict is None:
        return finding
    judged = msgspec.structs.replace(finding, verdict=verdict)
    match verdict.kind:
        case VerdictKind.CONFIRMED:
            return msgspec.structs.replace(judged, state=FindingState.CONFIRMED)
        case VerdictKind.PARTIALLY_REFUTED:
            return demote(judged, "partially refuted")
        case VerdictKind.REFUTED:
            return _after_refutation(judged, verdict)
    assert_never(verdict.kind)


def _after_refutation(judged: Finding, verdict: Verdict) -> Finding:
    """Words alone refute nothing: without lines of the tree they only weaken."""
    if not any(citation.state.found for citation in verdict.citations):
        return demote(judged, "refuted, but no citation against it was found")
    return noted(
        msgspec.structs.replace(judged, state=FindingState.REFUTED), "refuted with a citation"
    )
