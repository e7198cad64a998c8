"""The model of a flow: data that is loaded and validated at start, and never changes.

A flow file (`catalog/*.toml`) is one `Flow`. Nothing in it is code: conditions are expressions
(`expressions.py`), code steps name a function of `results.py`, briefs are files beside it. Nothing
in it can loosen read-only either: no key names a tool, a mode, a flag of the agent, a path of the
host or an endpoint, and a key that is not known is refused at every level.
"""

from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct

from protocol.commands import Band
from protocol.ids import StepId
from protocol.plan import Caps, OnFailure, StepKind
from protocol.report import Severity

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
StepName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$", max_length=64)]
Prefix = Annotated[str, Meta(pattern=r"^[A-Z]{2,3}$")]
Count = Annotated[int, Meta(ge=0, le=10_000)]

PREFIXES = frozenset(
    "EV VAL STR BEH CON RSK ARC SYS MAP SEC DAT DEV OCE TST EDG JUN GAP SRC OPT DEC".split()
)
"""Every prefix of a finding id. A prefix belongs to one role of a flow."""


class InputType(StrEnum):
    TEXT = "text"
    QUESTION = "question"
    TARGET = "target"
    """Files, folders or globs of the project."""
    GIT_REF = "git_ref"
    DOCUMENT = "document"
    ENUM = "enum"
    FLAG = "flag"


class Trust(StrEnum):
    USER = "user"
    UNTRUSTED = "untrusted"
    """Fenced and treated as data in every brief."""


class Over(StrEnum):
    """What a signal looks at."""

    CHANGED_PATHS = "changed_paths"
    TARGET_PATHS = "target_paths"
    DIFF = "diff"
    TARGET_TEXT = "target_text"
    DOCUMENT = "document"
    QUESTION = "question"


class Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    type: InputType
    summary: str
    required: bool = False
    default: Any = None
    position: Count | None = None
    """Its place among positional arguments; None = only as a flag or as the focus text."""
    many: bool = False
    """A target or text that takes all that is left."""
    flag: str | None = None
    """As `--base`. A `flag` input takes no value; every other takes one."""
    choices: list[str] = []
    focus: bool = False
    """Takes the quoted text of a slash command."""
    trust: Trust = Trust.USER


class Signal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counts places that match; it is present when `min_hits` is reached."""

    id: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    over: list[Over]
    globs: list[str] = []
    """Of paths: `*` stays inside a folder, `**` crosses folders."""
    regexes: list[str] = []
    """Of lines, ignoring case."""
    min_hits: Count = 1
    weight: Count = 1


class BandRules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    caps: Caps
    summary: str
    severities: list[Severity]
    """What the report of this band shows; the rest is counted."""
    when: str | None = None
    """The band is raised to this one when the expression is true; None for `small`."""


class Each(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fan a step out: one copy per batch, at most `caps.batches`."""

    over: Annotated[str, Meta(pattern=r"^scope\.files$")]
    max: Count
    """The most files of one batch before another is opened."""


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: StepName
    kind: StepKind
    phase: str
    title: str
    summary: str = ""
    role: str | None = None
    needs: list[StepName] = []
    when: str | None = None
    otherwise: str | None = None
    """Why it is not called for when `when` is false, in words for a report."""
    spine: bool = True
    """False: a specialist, seated only when `signal` is present and the cap allows."""
    signal: str | None = None
    min_band: Band = Band.SMALL
    each: Each | None = None
    function: str | None = None
    brief: str | None = None
    output: str | None = None
    prefix: Prefix | None = None
    dimensions: list[str] = []
    required: bool = False
    on_failure: OnFailure = OnFailure.DEGRADE
    retries: Annotated[int, Meta(ge=0, le=5)] = 2
    quorum: Count | None = None
    web: bool = False
    """The step asks for the web. `checks.py` refuses it: no agent is given it."""


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the report: which renderer of `report/sections.py` fills it."""

    id: str
    title: str
    renderer: str


class Flow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Name
    version: Annotated[int, Meta(ge=1)]
    title: str
    summary: str
    aliases: list[Name] = []
    inputs: list[Input]
    primary_input: str
    """The input that REST's `question` feeds."""
    uses_scope: bool = True
    """Whether a set of files is under review."""
    signals: list[Signal] = []
    bands: dict[Band, BandRules]
    steps: list[Step]
    sections: list[Section]
    next: dict[str, str] = {}
    """The one command to suggest at the end, by outcome (`findings`, `clean`, `partial`)."""


def step_id(name: str, index: int | None) -> StepId:
    """The id of a planned step: the template's name, with its place in a fan-out."""
    return StepId(name if index is None else f"{name}.{index}")
