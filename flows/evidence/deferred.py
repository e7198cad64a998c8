"""Rule 13: an idea is put off with a reason, a source, and an event that brings it back."""

import re

from flows.outputs import DeferredIdea
from protocol.ids import StepId
from protocol.report import Deferred

_VAGUE = re.compile(
    r"(?:(?:maybe|perhaps|sometime|some ?day|some point|at|in|the|near|future|later|on|eventually"
    r"|soon|when|if|as|there|is|we|you|they|have|has|get|got|it|time|times|ever|never|needed"
    r"|necessary|required|possible|allows?|permits?|a|an|n/?a|none|unknown|tbd|todo|resources"
    r"|capacity|needs?|for|to|of|do|this|that|more|again)\b[\s.,;:!…-]*)+",
    re.IGNORECASE,
)
"""A trigger made of nothing but such words names no event."""


def problem(idea: DeferredIdea) -> str | None:
    """Say what a deferred idea lacks; None when it may be listed."""
    if not idea.reason.strip():
        return "no reason"
    if not idea.source.strip():
        return "no source"
    trigger = idea.reopen_when.strip()
    if not re.search(r"\w", trigger) or _VAGUE.fullmatch(trigger):
        return "nothing concrete that would reopen it"
    return None


def collect(ideas: list[DeferredIdea], step_id: StepId) -> tuple[list[Deferred], list[str]]:
    """Return the ideas that may be listed, and a note for each that may not."""
    kept = [
        Deferred(
            title=idea.title,
            reason=idea.reason,
            reopen_when=idea.reopen_when,
            source=idea.source,
            step_id=step_id,
        )
        for idea in ideas
        if problem(idea) is None
    ]
    notes = [
        f"deferred idea left out ({why}): {idea.title}" for idea in ideas if (why := problem(idea))
    ]
    return kept, notes
