"""Read-only as a person may read it: what the receipts of a run prove, and what they do not.

A receipt's own `proven` is not believed either: it counts only where everything else in the receipt
agrees with it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from flows.counted import number_of
from flows.engine import READ_ONLY_UNPROVEN
from protocol.ids import StepId
from protocol.plan import FlowPlan, StepKind
from protocol.report import ReadOnly, ReadOnlyVerdict
from protocol.resources import Containment, Level, Proof, Receipt, SelfTest

PROBES = {
    "write": "it could write into the copy",
    "network": "it could reach a port of the host",
    "process": "it could see processes of the host",
}
"""What was tried, and what it means when that succeeded."""


class Attempted(Struct, frozen=True, kw_only=True):
    """One attempt of an agent step. Without a receipt `reason` says why there is none."""

    step_id: StepId
    attempt: int
    receipt: Receipt | None
    reason: str | None = None

    @property
    def name(self) -> str:
        return self.step_id if self.attempt == 1 else f"{self.step_id}, attempt {self.attempt}"


# ── one receipt ──────────────────────────────────────────────────────────────────────────────────


def gaps(receipt: Receipt) -> list[str]:
    """Return why an attempt is not proven read-only; none means that it is."""
    if receipt.contained is Containment.NONE:
        return ["it was not contained by the operating system"]
    missing = [level.value for level in Level if level not in receipt.levels]
    found = [f"not contained: {', '.join(missing)}"] if missing else []
    not_run = [name for name, came in probes(receipt).items() if came is SelfTest.NOT_RUN]
    if not_run:
        found.append(f"not tried from inside: {', '.join(not_run)}")
    return found + violations(receipt)


def violations(receipt: Receipt) -> list[str]:
    """Return what an attempt did, or could do, that it must not."""
    changed = receipt.tree_before != receipt.tree_after
    return [
        *(["the copy changed while it ran"] if changed else []),
        *(PROBES[name] for name, came in probes(receipt).items() if came is SelfTest.SUCCEEDED),
    ]


def probes(receipt: Receipt) -> dict[str, SelfTest]:
    """Return what came of each probe, by the names of `PROBES`."""
    return {
        "write": receipt.write_probe,
        "network": receipt.network_probe,
        "process": receipt.process_probe,
    }


def _gaps_of(attempted: Attempted) -> list[str]:
    receipt = attempted.receipt
    if receipt is None:
        why = f" ({attempted.reason})" if attempted.reason else ""
        return [f"it left no receipt{why}"]
    found = gaps(receipt)
    if not found and receipt.proven is not Proof.YES:
        return ["its receipt does not say that it is proven"]
    return found


# ── a run ────────────────────────────────────────────────────────────────────────────────────────


def read_only(attempts: Sequence[Attempted], *, reused: int = 0) -> ReadOnly:
    """Return what is proven of a run by all `attempts` of its agents.

    `reused` are steps whose results came from an earlier run, which has their receipts.
    """
    receipts = [it.receipt for it in attempts if it.receipt is not None]
    broken = list(_violations(attempts))
    open_ = list(_gaps(attempts, reused))
    proven = sum(not _gaps_of(it) for it in attempts)
    verdict = _verdict(attempts, proven=proven, broken=broken)
    return ReadOnly(
        verdict=verdict,
        line=_line(verdict, attempts, proven=proven, broken=broken, open_=open_),
        attempts=len(attempts),
        proven=proven,
        agents=_sorted(f"{it.agent} {it.agent_version}, {it.mode} mode" for it in receipts),
        hosts=_sorted(it.host for it in receipts),
        tools=_sorted(tool for it in receipts for tool in it.tools),
        levels=_levels(receipts),
        probes=_probes(receipts),
        denials=dict(sorted(Counter(tool for it in receipts for tool in it.denials).items())),
        copies=_copies(receipts),
        gaps=open_,
        violations=broken,
        ended_at=max((it.ended_at for it in receipts if it.ended_at), default=None),
    )


def attempts_of(plan: FlowPlan, attempts: Iterable[Attempted]) -> list[Attempted]:
    """Return the attempts that were agents: code steps start no process."""
    agents = {step.id for step in plan.steps if step.kind is StepKind.AGENT}
    return [it for it in attempts if it.step_id in agents]


def stale(attempts: Iterable[Attempted]) -> bool:
    """Whether the repository changed between the first and the last that was seen of it.

    It is no fault: people go on working. The report still speaks of the pinned tree.
    """
    receipts = [it.receipt for it in attempts if it.receipt is not None]
    seen = {it.repository_before for it in receipts} | {it.repository_after for it in receipts}
    return len(seen) > 1


def _verdict(
    attempts: Sequence[Attempted], *, proven: int, broken: Sequence[str]
) -> ReadOnlyVerdict:
    if broken:
        return ReadOnlyVerdict.VIOLATED
    if not attempts:
        return ReadOnlyVerdict.NO_AGENT
    return ReadOnlyVerdict.PROVEN if proven == len(attempts) else ReadOnlyVerdict.NOT_PROVEN


def _violations(attempts: Sequence[Attempted]) -> Iterator[str]:
    for it in attempts:
        found = violations(it.receipt) if it.receipt is not None else []
        if not found and it.reason == READ_ONLY_UNPROVEN:
            found = ["it ended because read-only could not be proven"]
        yield from (f"{it.name}: {what}" for what in found)
    # Nobody writes into a copy between two attempts either: a process that was left behind might.
    changed_inside = any(it.receipt and violations(it.receipt) for it in attempts)
    copies = _copies([it.receipt for it in attempts if it.receipt is not None])
    if len(copies) > 1 and not changed_inside:
        yield "the copy changed between two attempts"


def _gaps(attempts: Sequence[Attempted], reused: int) -> Iterator[str]:
    """Each reason once, with the attempts it is about; all of them need no names."""
    by_reason: dict[str, list[str]] = {}
    for it in attempts:
        broken = violations(it.receipt) if it.receipt is not None else []
        for gap in _gaps_of(it):
            if gap not in broken:
                by_reason.setdefault(gap, []).append(it.name)
    for reason, names in by_reason.items():
        whom = "every attempt" if len(names) == len(attempts) else "; ".join(names)
        yield f"{whom}: {reason}"
    if reused:
        steps = "1 result was" if reused == 1 else f"{reused} results were"
        yield f"{steps} reused: the receipts are in the report of the run that made them"


def _line(
    verdict: ReadOnlyVerdict,
    attempts: Sequence[Attempted],
    *,
    proven: int,
    broken: Sequence[str],
    open_: Sequence[str],
) -> str:
    """The sentence for a person who reads no more than this."""
    count = len(attempts)
    of = "the one attempt" if count == 1 else f"all {count} attempts"
    match verdict:
        case ReadOnlyVerdict.VIOLATED:
            return f"Read-only: VIOLATED. {_sentence(broken[0])}"
        case ReadOnlyVerdict.NO_AGENT:
            return "Read-only: nothing to prove, no agent was started."
        case ReadOnlyVerdict.PROVEN:
            return f"Read-only: proven for {of} ({', '.join(level.value for level in Level)})."
        case ReadOnlyVerdict.NOT_PROVEN:
            verb = "is" if count == 1 else "are"
            lead = f"Read-only: not proven, {proven} of {number_of(count, 'attempt')} {verb}"
            return f"{lead}. {_sentence(open_[0])}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _levels(receipts: Sequence[Receipt]) -> dict[str, int]:
    counted = Counter(level for it in receipts for level in it.levels)
    return {level.value: counted[level] for level in Level}


def _probes(receipts: Sequence[Receipt]) -> dict[str, dict[str, int]]:
    return {
        name: {came.value: n for came in SelfTest if (n := counted[came])}
        for name in PROBES
        if (counted := Counter(probes(it)[name] for it in receipts))
    }


def _copies(receipts: Sequence[Receipt]) -> list[str]:
    """In the order in which they were seen."""
    return list(dict.fromkeys(seen for it in receipts for seen in (it.tree_before, it.tree_after)))


def _sorted(words: Iterable[str]) -> list[str]:
    return sorted(set(words))
