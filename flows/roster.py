"""Who takes part in a run, who does not, and why."""

from collections.abc import Mapping
from typing import NamedTuple

from flows.model import Flow, Step
from flows.slash import Invocation
from protocol.commands import Band
from protocol.plan import ChosenBand, Seat, SignalHits, StepKind

SIGNAL_ABSENT = "signal absent"
OVER_THE_CAP = "over the cap of the {band} band"
SKIPPED = "skipped by --skip"
NOT_NAMED = "not named by --only"
LARGER_BAND = "needs the {band} band"


class Roster(NamedTuple):
    steps: list[Step]
    """The flow's steps that are seated, code steps included, in the flow's order."""
    seats: list[Seat]
    omitted: list[Seat]
    warnings: list[str]


def choose(
    flow: Flow, invocation: Invocation, band: ChosenBand, signals: list[SignalHits]
) -> Roster:
    """Seat the steps of the spine, and the specialists whose signal is present, up to the cap.

    Specialists compete by the signal's weight, its hits and their id. `--only` names reviewing
    roles: those are seated whatever their signal and the cap, the other reviewers are not; a step
    that only judges or sums up stays. `--skip` leaves out any role.
    """
    hits = {signal.id: signal.hits for signal in signals}
    omitted = _omissions(flow, invocation, band.name, hits)
    cap = flow.bands[band.name].caps.specialists
    rivals = [
        step
        for step in flow.steps
        if not step.spine and step.id not in omitted and step.role not in invocation.only
    ]
    for step in _by_claim(rivals, flow, hits)[cap:]:
        omitted[step.id] = OVER_THE_CAP.format(band=band.name.value)
    seated = [step for step in flow.steps if step.id not in omitted]
    return Roster(
        steps=seated,
        seats=[_seat(step, _why(step, invocation, hits)) for step in _agents(seated)],
        omitted=[_seat(step, omitted[step.id]) for step in flow.steps if step.id in omitted],
        warnings=[
            f"the required role {step.role} is left out: {omitted[step.id]}"
            for step in flow.steps
            if step.required and step.id in omitted
        ],
    )


def _omissions(
    flow: Flow, invocation: Invocation, band: Band, hits: Mapping[str, int]
) -> dict[str, str]:
    """The steps that are left out before anybody competes, each with its reason."""
    omitted = {}
    for step in _agents(flow.steps):
        named = step.role in invocation.only
        reviews = step.output == "findings"
        if step.role in invocation.skip:
            omitted[step.id] = SKIPPED
        elif invocation.only and reviews and not named:
            omitted[step.id] = NOT_NAMED
        elif named:
            continue
        elif step.signal is not None and step.signal not in hits:
            omitted[step.id] = SIGNAL_ABSENT
        elif _rank(step.min_band) > _rank(band):
            omitted[step.id] = LARGER_BAND.format(band=step.min_band.value)
    return omitted


def _by_claim(steps: list[Step], flow: Flow, hits: Mapping[str, int]) -> list[Step]:
    weights = {signal.id: signal.weight for signal in flow.signals}

    def claim(step: Step) -> tuple[int, int, str]:
        signal = step.signal or ""
        return (-weights.get(signal, 0), -hits.get(signal, 0), step.id)

    return sorted(steps, key=claim)


def _why(step: Step, invocation: Invocation, hits: Mapping[str, int]) -> str:
    if step.role in invocation.only:
        return "named by --only"
    if step.signal is not None:
        return f"signal {step.signal}: {hits[step.signal]}"
    return "always there" if step.when is None else "when there is something to judge"


def _seat(step: Step, reason: str) -> Seat:
    return Seat(role=step.role or "", title=step.title, reason=reason, spine=step.spine)


def _agents(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.kind is StepKind.AGENT]


def _rank(band: Band) -> int:
    return list(Band).index(band)
