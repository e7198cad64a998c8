"""How long a step waits before it is tried again. Pure."""

from datetime import datetime, timedelta

import msgspec

from server.ports import AgentFailure

BASE, CAP = 2.0, 60.0
LONGEST = 600.0
"""Seconds that an endpoint may ask to be left alone; for longer no step is kept waiting."""


def pause(failure: AgentFailure | None, *, retries: int, chance: float) -> float:
    """Seconds until the next attempt; `retries` counts it. `chance` is drawn from 0 to 1.

    Full jitter, so that agents do not return in step; on top of what the endpoint asked for, which
    is never shortened. `failure` None: why it failed is not known any more.
    """
    asked = (failure.retry_after or 0.0) if failure else 0.0
    return asked + chance * min(CAP, BASE * 2.0**retries)


def bounded(failure: AgentFailure, *, now: datetime) -> AgentFailure:
    """The same failure, final when the endpoint wants to be left alone for too long."""
    asked = failure.retry_after or 0.0
    if asked <= LONGEST:
        return failure
    until = now + timedelta(seconds=asked)
    words = f"it asks to be left alone for {_span(asked)}, until {until:%Y-%m-%d %H:%M} UTC"
    return msgspec.structs.replace(
        failure, message=f"{failure.message}; {words}: run it again then", retryable=False
    )


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 7_200 else f"{seconds / 60:.0f} min"
