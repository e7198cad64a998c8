"""What an agent step returns: one structured result, bounded everywhere.

Each result ends with a required constant, so that an answer that was cut and completed by the CLI
is invalid instead of silently short.
"""

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.report import Confidence, Severity, VerdictKind

Line = Annotated[int, Meta(ge=1, le=10_000_000)]
Title = Annotated[str, Meta(min_length=3, max_length=160)]
Sentence = Annotated[str, Meta(min_length=1, max_length=600)]
Paragraph = Annotated[str, Meta(min_length=1, max_length=1_500)]
Label = Annotated[str, Meta(min_length=1, max_length=60)]


class Action(StrEnum):
    """What a fix would do. Opposites on the same lines cannot both be right."""

    ADD = "add"
    REMOVE = "remove"
    SPLIT = "split"
    MERGE = "merge"
    INLINE = "inline"
    EXTRACT = "extract"
    CHANGE = "change"


class CitedLines(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place in the tree: the path from its root, and 1–12 lines copied exactly."""

    path: Annotated[str, Meta(min_length=1, max_length=400)]
    line_start: Line
    line_end: Line
    quote: Annotated[str, Meta(min_length=1, max_length=2_400)]


class AgentFinding(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    title: Title
    claim: Paragraph
    category: Label
    severity: Severity
    confidence: Confidence
    citations: Annotated[list[CitedLines], Meta(min_length=1, max_length=6)]
    impact: Paragraph
    fix: Paragraph | None = None
    action: Action | None = None
    alias: Label | None = None


class ClearedDimension(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dimension: Label
    note: Sentence


class DeferredIdea(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    title: Title
    reason: Sentence
    reopen_when: Sentence
    source: Sentence


class FindingsOutput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of every reviewing role. Without findings, `negative` is true and `searched` says where."""

    summary: Paragraph
    findings: Annotated[list[AgentFinding], Meta(max_length=30)]
    cleared: Annotated[list[ClearedDimension], Meta(max_length=30)]
    deferred: Annotated[list[DeferredIdea], Meta(max_length=10)]
    negative: bool
    searched: Annotated[list[Sentence], Meta(max_length=30)]
    end: Literal["complete"]


class AgentVerdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    finding_id: Annotated[str, Meta(min_length=4, max_length=20)]
    verdict: VerdictKind
    reason: Paragraph
    citations: Annotated[list[CitedLines], Meta(max_length=4)]


class VerdictsOutput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the adversarial validator: exactly one verdict for each submitted id."""

    verdicts: Annotated[list[AgentVerdict], Meta(min_length=1, max_length=120)]
    summary: Paragraph
    end: Literal["complete"]


class IssueType(StrEnum):
    BUG = "bug"
    REGRESSION = "regression"
    PERFORMANCE = "performance"
    SECURITY = "security"
    FEATURE = "feature"
    QUESTION = "question"
    CHORE = "chore"


class SuspectedArea(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    area: Title
    why: Sentence
    citations: Annotated[list[CitedLines], Meta(max_length=3)]


class TriageOutput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: IssueType
    summary: Paragraph
    severity: Severity | None
    """None when it does not apply, as for a question."""
    reproducible: bool | None
    """None when the text does not tell."""
    missing: Annotated[list[Sentence], Meta(max_length=10)]
    suspected: Annotated[list[SuspectedArea], Meta(max_length=8)]
    end: Literal["complete"]


Output = FindingsOutput | VerdictsOutput | TriageOutput

OUTPUTS: dict[str, type[Output]] = {
    "findings": FindingsOutput,
    "verdicts": VerdictsOutput,
    "triage": TriageOutput,
}
"""By the name that a flow's step gives as `output`."""
