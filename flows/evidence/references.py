"""Rule 7: every finding that prose speaks of exists, and none that was given is lost."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from flows.ids import cited_ids, prefix_of
from protocol.report import Finding


def problems(
    prose: Mapping[str, str],
    *,
    given: Iterable[str],
    settled: Collection[str],
    ran: Collection[str],
) -> list[str]:
    """Return one sentence for each id that leads nowhere.

    `prose` are texts by where they stand; `given` the ids that agents' findings got; `settled` the
    ids that are listed at the end; `ran` the prefixes of the roles that delivered.
    """
    unknown = [
        f"{where} cites {finding_id}, {_why_unknown(finding_id, ran)}"
        for where, text in prose.items()
        for finding_id in cited_ids(text)
        if finding_id not in settled
    ]
    lost = [
        f"{finding_id} was reported and is not listed"
        for finding_id in given
        if finding_id not in settled
    ]
    return unknown + lost


def prose_of(findings: Iterable[Finding]) -> dict[str, str]:
    """Return everything that agents wrote in the findings, by id."""
    return {finding.id: "\n".join(_texts(finding)) for finding in findings}


def _texts(finding: Finding) -> Iterator[str]:
    yield from (finding.title, finding.claim, finding.impact)
    if finding.fix is not None:
        yield finding.fix
    if finding.verdict is not None:
        yield finding.verdict.reason


def _why_unknown(finding_id: str, ran: Collection[str]) -> str:
    return "which does not exist" if prefix_of(finding_id) in ran else "of a role that did not run"
