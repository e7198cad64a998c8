"""Which band a run gets, and why."""

from flows import expressions
from flows.model import Flow
from protocol.commands import Band
from protocol.plan import ChosenBand


def pick(flow: Flow, asked: Band | None, scope: expressions.Scope) -> ChosenBand:
    """Choose a band: an explicit one wins, else the signals may raise it, else it is small.

    Each larger band says itself when it is called for; what fits none of them stays small.
    """
    if asked is not None:
        return ChosenBand(name=asked, reason="asked for", source="explicit")
    for band in (Band.LARGE, Band.MEDIUM):
        rules = flow.bands.get(band)
        if rules is None or rules.when is None:
            continue
        condition = expressions.parse(rules.when)
        if expressions.holds(condition, scope):
            return ChosenBand(name=band, reason=_why(condition, scope), source="signals")
    return ChosenBand(name=Band.SMALL, reason="no signal calls for a larger band", source="default")


def _why(condition: expressions.Expression, scope: expressions.Scope) -> str:
    """The signals that the condition asks about, with their hits."""
    asked = sorted(expressions.names(condition).paths)
    counted = [
        f"{name.removeprefix('signals.')}: {hits}"
        for name in asked
        if (hits := scope.signals.get(name.removeprefix("signals.")))
    ]
    return f"signals ({', '.join(counted)})" if counted else condition.text
