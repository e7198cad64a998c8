"""Findings, verdicts, coverage and the report: the objects that every renderer reads."""

from enum import StrEnum
from typing import Any

from msgspec import Struct

from protocol.ids import StepId
from protocol.plan import Endpoint


class Severity(StrEnum):
    CRITICAL = "critical"
    WARNING = "warning"
    SUGGESTION = "suggestion"


class Confidence(StrEnum):
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class CitationState(StrEnum):
    """The server's verdict on one citation, checked against the pinned tree."""

    VERIFIED = "verified"
    """The quote stands at the cited lines."""
    MOVED = "moved"
    """The quote stands once, elsewhere in the file; the lines were corrected."""
    AMBIGUOUS = "ambiguous"
    """The quote stands in several places; the nearest to the cited line was taken."""
    UNVERIFIED = "unverified"
    """The file exists; the quote stands nowhere in it."""
    INVALID = "invalid"
    """The path names no file of the tree, or the quote is no usable quote."""

    @property
    def found(self) -> bool:
        return self in (CitationState.VERIFIED, CitationState.MOVED, CitationState.AMBIGUOUS)


class Citation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place in the reviewed tree. Lines count from 1; both ends are included."""

    path: str
    line_start: int
    line_end: int
    quote: str
    state: CitationState = CitationState.UNVERIFIED
    note: str | None = None
    """Why it is not plainly verified, or what was repaired; None when there is nothing to say."""
    cited_path: str | None = None
    """The path as the agent wrote it, when it was repaired."""
    cited_line: int | None = None
    """The first line as the agent wrote it, when it was corrected."""


class VerdictKind(StrEnum):
    CONFIRMED = "confirmed"
    PARTIALLY_REFUTED = "partially_refuted"
    REFUTED = "refuted"


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the adversarial validator says of one finding."""

    finding_id: str
    kind: VerdictKind
    reason: str
    citations: list[Citation] = []


class FindingState(StrEnum):
    OPEN = "open"
    CONFIRMED = "confirmed"
    DEMOTED = "demoted"
    REFUTED = "refuted"
    MERGED = "merged"
    UNVERIFIED = "unverified"
    """None of its citations was found: listed apart, never a basis of the recommendation."""


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One claim about the code, with its citations and everything the server did to it.

    `id` is the server's and never changes; `alias` is the agent's own label.
    """

    id: str
    step_id: StepId
    role: str
    title: str
    claim: str
    category: str
    severity: Severity
    confidence: Confidence
    impact: str
    citations: list[Citation]
    state: FindingState = FindingState.OPEN
    fix: str | None = None
    action: str | None = None
    introduced: bool | None = None
    """Whether a cited line was added by the change under review; None when no diff was reviewed."""
    alias: str | None = None
    merged_into: str | None = None
    merged_from: list[str] = []
    verdict: Verdict | None = None
    notes: list[str] = []
    """What the server changed and why, in order."""


class Deferred(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something not worth doing now. It never counts as a severity."""

    title: str
    reason: str
    reopen_when: str
    source: str
    step_id: StepId


class Cleared(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dimension that a role looked at and found nothing in."""

    dimension: str
    note: str
    step_id: StepId


class StepCoverage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    step_id: StepId
    role: str
    status: str
    required: bool
    reason: str | None = None
    reused: bool = False
    denied_tools: int = 0


class Coverage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was and was not looked at; present in every report."""

    complete: bool
    """Every step delivered that was to, and no file in scope was left out over the cap."""
    scope: str
    files_reviewed: int
    files_in_scope: int
    steps: list[StepCoverage]
    left_out: dict[str, int] = {}
    """Files that were not sent to any agent, counted by reason."""
    left_out_paths: list[str] = []
    """The first of those in scope that the band's cap left out."""
    omitted_roles: list[str] = []
    """Roles whose signal was there but which the band's cap left out, each with its reason."""
    notes: list[str] = []


class Citations(Struct, frozen=True, kw_only=True):
    """How many citations the agents made, by the server's verdict."""

    total: int
    verified: int
    moved: int
    ambiguous: int
    unverified: int
    invalid: int


class ReadOnlyVerdict(StrEnum):
    PROVEN = "proven"
    """Every attempt of the run, by its receipt."""
    NOT_PROVEN = "not_proven"
    """At least one attempt was not contained at every level, or left no receipt."""
    VIOLATED = "violated"
    """The copy changed, or an attempt could do what it must not."""
    NO_AGENT = "no_agent"
    """No agent was started, so there is nothing to prove."""


class ReadOnly(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the receipts of a run come to. Equal runs may differ in it: a report has it in `meta`
    as `read_only`."""

    verdict: ReadOnlyVerdict
    line: str
    """All of it in one sentence."""
    attempts: int
    """Agents that were started, or were to be."""
    proven: int
    """Of these, by their own receipt."""
    agents: list[str] = []
    """As `qwen 0.24.4, plan mode`."""
    hosts: list[str] = []
    """Of the model endpoints."""
    tools: list[str] = []
    """Every tool that any agent was offered."""
    levels: dict[str, int] = {}
    """How many attempts were contained at each level."""
    probes: dict[str, dict[str, int]] = {}
    """By what was tried (`write`, `network`, `process`): how many attempts, by what came of it."""
    denials: dict[str, int] = {}
    """Calls that were refused, by tool."""
    copies: list[str] = []
    """The different hashes of the pinned copy that were seen: one, when it never changed."""
    gaps: list[str] = []
    """What is not proven, and why."""
    violations: list[str] = []
    ended_at: str | None = None
    """When the last process of the run was gone."""


class Section(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part of a report, in order. A section without content is left out."""

    id: str
    title: str
    text: str = ""
    items: list[str] = []
    findings: list[str] = []
    """Ids of the findings shown here, in order."""


class Report(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The report. Two reports are the same when they are equal without `meta`."""

    version: int
    flow: str
    flow_version: int
    title: str
    headline: str
    """The answer in one sentence."""
    recommendation: str
    complete: bool
    tree_id: str
    scope: str
    band: str
    model: str
    endpoint: str
    demo: bool
    """Made by the scripted demo model: not a review."""
    role_endpoints: dict[str, Endpoint] = {}
    """Where the model of each role answered that had one of its own."""
    counts: dict[str, int]
    """Findings that stand, by severity."""
    citations: Citations
    findings: list[Finding]
    sections: list[Section]
    coverage: Coverage
    deferred: list[Deferred] = []
    cleared: list[Cleared] = []
    next: str | None = None
    """The one command to run next."""
    meta: dict[str, Any] = {}
    """Times, attempts, receipts, `read_only` (a `ReadOnly`) and `stale` (the repository changed
    while the run went on): what differs between two runs that say the same."""
