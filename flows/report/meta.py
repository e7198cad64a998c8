"""What is in a report's `meta` and yet shown: whether read-only is proven, and whether it is stale.

Both may differ between runs that say the same, so they are no part of what a report says.
"""

import msgspec

from flows.counted import number_of
from protocol.report import ReadOnly, ReadOnlyVerdict, Report, Section

STALE = (
    "Stale: the repository changed while this ran. The report speaks of the pinned tree, not of"
    " what is there now."
)
MAX_DENIALS = 12
SHORT_HASH = 12


def read_only_of(report: Report) -> ReadOnly | None:
    """Return what is proven; None for a report of a version that did not tell."""
    told = report.meta.get("read_only")
    return None if told is None else msgspec.convert(told, ReadOnly)


def is_stale(report: Report) -> bool:
    return bool(report.meta.get("stale"))


def read_only_section(told: ReadOnly) -> Section:
    """Return the section Read-only, in plain words; whoever renders it escapes it."""
    items = [*(f"VIOLATED: {what}" for what in told.violations)]
    if told.attempts:
        items += [*_who(told), _contained(told), _tried(told), _copy(told), _denials(told)]
    items += [f"Not proven: {gap}" for gap in told.gaps]
    if told.ended_at is not None:
        items.append(f"The last process was gone at {told.ended_at}")
    return Section(id="read_only", title="Read-only", text=told.line, items=items)


def leads(told: ReadOnly) -> bool:
    """Whether the section stands before everything else."""
    return told.verdict is ReadOnlyVerdict.VIOLATED


def _who(told: ReadOnly) -> list[str]:
    if not told.agents:
        return []
    tools = ", ".join(told.tools) or "no tool"
    return [f"{'; '.join(told.agents)}; offered {tools}; model at {', '.join(told.hosts)}"]


def _contained(told: ReadOnly) -> str:
    counts = [f"{level} {n}" for level, n in told.levels.items() if n]
    return f"Contained, of {number_of(told.attempts, 'attempt')}: {', '.join(counts) or 'none'}"


def _tried(told: ReadOnly) -> str:
    parts = [
        f"{name} {came.replace('_', ' ')} {n}"
        for name, outcomes in told.probes.items()
        for came, n in outcomes.items()
    ]
    return f"Tried from inside: {', '.join(parts) or 'nothing'}"


def _copy(told: ReadOnly) -> str:
    shown = [name.removeprefix("sha256:")[:SHORT_HASH] for name in told.copies]
    match shown:
        case []:
            return "The copy: no receipt tells of it"
        case [only]:
            return f"The copy: {only}, the same before and after every attempt that tells of it"
        case _:
            return f"The copy CHANGED: {' → '.join(shown)}"


def _denials(told: ReadOnly) -> str:
    shown = [f"{tool} {n}" for tool, n in list(told.denials.items())[:MAX_DENIALS]]
    more = len(told.denials) - len(shown)
    shown += [number_of(more, "more tool")] if more else []
    return f"Calls refused: {', '.join(shown) or 'none'}"
