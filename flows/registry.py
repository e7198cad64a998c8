"""The catalogue: every flow that is offered, with its briefs."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import resources
from typing import Any

import msgspec
from msgspec import Struct

from flows.checks import problems
from flows.model import BandRules, Flow, Input, InputType
from flows.schemas import schema_for
from protocol.commands import Band
from protocol.errors import ErrorCode, ProtocolError
from protocol.plan import Caps, StepKind
from protocol.resources import FlowBand, FlowInfo, FlowInput

SHARED_BRIEFS = ("preamble", "evidence")
"""What every agent is told, whatever its role."""

MAX_BRIEF_BYTES = 4_000
"""Of one brief: three of them go into every prompt (see `planner.py`)."""

_BRIEF = re.compile(r"version: (?P<version>[1-9]\d*)\n+(?P<text>.*)", re.DOTALL)


class Problem(Struct, frozen=True):
    """Why a file of the catalogue is not offered."""

    file: str
    message: str


class Catalogue(Struct, frozen=True, kw_only=True):
    """The flows that validate, and why the others do not."""

    flows: Mapping[str, Flow]
    """By id, in the order of their ids."""
    names: Mapping[str, str]
    """Ids by id and by alias."""
    briefs: Mapping[str, str]
    """Texts by `name@version`."""
    problems: list[Problem] = []

    def get(self, name: str) -> Flow:
        """Return the flow of this name or alias, or raise `unknown_flow` with the closest name."""
        if name in self.names:
            return self.flows[self.names[name]]
        close = self.closest(name)
        hint = f"did you mean /{close}?" if close else f"there are: {', '.join(self.flows)}"
        raise ProtocolError(
            ErrorCode.UNKNOWN_FLOW, f"there is no flow {name[:80]!r}", field="flow_name", hint=hint
        )

    def closest(self, name: str) -> str | None:
        """Return the known name that looks most like `name`, if any does."""
        return next(iter(get_close_matches(name[:80], list(self.names), n=1)), None)

    def infos(self) -> list[FlowInfo]:
        """Return what a composer shows, in the order of ids."""
        return [_info(flow) for flow in self.flows.values()]

    def briefs_of(self, flow: Flow) -> dict[str, str]:
        """Return the texts that prompts of `flow` are made of, by `name@version`."""
        wanted = {step.brief for step in flow.steps}
        return {
            name: text
            for name, text in self.briefs.items()
            if name in wanted or name.partition("@")[0] in SHARED_BRIEFS
        }

    def hashes(self, flow: Flow) -> dict[str, str]:
        """Return a short hash of each brief (`name@version`) and output schema (its name)."""
        caps = flow.bands[Band.SMALL].caps
        outputs = sorted({step.output for step in flow.steps if step.output is not None})
        schemas = {name: msgspec.json.encode(schema_for(name, caps)) for name in outputs}
        texts = {name: text.encode() for name, text in self.briefs_of(flow).items()}
        return {name: _short_hash(content) for name, content in (texts | schemas).items()}


def load() -> Catalogue:
    """Load the catalogue that is shipped with this package."""
    package = resources.files("flows")
    return build(
        flows=_texts(package.joinpath("catalog"), ".toml"),
        briefs=_texts(package.joinpath("briefs"), ".md"),
    )


def build(*, flows: Mapping[str, str], briefs: Mapping[str, str]) -> Catalogue:
    """Make a catalogue of flow files (TOML) and briefs (Markdown), each by file name.

    A brief starts with a line `version: N`. What is not valid is left out and said in `problems`.
    """
    read, found = _read_briefs(briefs)
    offered: dict[str, Flow] = {}
    names: dict[str, str] = {}
    for file, text in sorted(flows.items()):
        try:
            flow = msgspec.toml.decode(text, type=Flow)
            wrong = [*_unknown_caps(text), *problems(flow, read)]
        except (msgspec.DecodeError, ValueError) as error:
            found.append(Problem(file, str(error)))
            continue
        own = [flow.id, *flow.aliases]
        wrong += [f"the name {name!r} is taken by {names[name]}" for name in own if name in names]
        found.extend(Problem(file, message) for message in wrong)
        if not wrong:
            offered[flow.id] = flow
            names.update(dict.fromkeys(own, flow.id))
    return Catalogue(flows=offered, names=names, briefs=read, problems=found)


def _unknown_caps(text: str) -> Iterator[str]:
    """Caps travel over the wire, where unknown fields pass; in a file they are a mistake."""
    for name, band in msgspec.toml.decode(text)["bands"].items():
        for key in sorted(band["caps"].keys() - set(Caps.__struct_fields__)):
            yield f"band {name!r}: there is no cap {key!r}"


def usage(flow: Flow) -> str:
    """Return the argument hint, as `/code-review [band] [--base REF] [path…] ["focus"]`."""
    inputs = sorted(flow.inputs, key=_usage_order)
    return " ".join([f"/{flow.id}", "[band]", *(_hint(declared) for declared in inputs)])


def _read_briefs(files: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    read: dict[str, str] = {}
    found: list[Problem] = []
    for file, text in sorted(files.items()):
        match = _BRIEF.fullmatch(text)
        if match is None:
            found.append(Problem(file, "the first line is not `version: N`"))
        elif len(text.encode()) > MAX_BRIEF_BYTES:
            found.append(Problem(file, f"longer than {MAX_BRIEF_BYTES} bytes"))
        else:
            read[f"{file.removesuffix('.md')}@{match['version']}"] = match["text"].strip()
    have = {name.partition("@")[0] for name in read}
    found += [Problem(f"{name}.md", "missing") for name in SHARED_BRIEFS if name not in have]
    return read, found


def _texts(folder: Any, suffix: str) -> dict[str, str]:
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith(suffix)
    }


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _info(flow: Flow) -> FlowInfo:
    return FlowInfo(
        name=flow.id,
        title=flow.title,
        summary=flow.summary,
        aliases=list(flow.aliases),
        usage=usage(flow),
        inputs=[_input_info(declared) for declared in flow.inputs],
        bands=[
            FlowBand(name=band, agents=_agents(flow, flow.bands[band]), summary=rules.summary)
            for band in Band
            if (rules := flow.bands.get(band)) is not None
        ],
        primary_input=flow.primary_input,
    )


def _input_info(declared: Input) -> FlowInput:
    return FlowInput(
        name=declared.name,
        type=declared.type.value,
        summary=declared.summary,
        required=declared.required,
        flag=declared.flag,
        choices=list(declared.choices),
        default=declared.default,
    )


def _agents(flow: Flow, rules: BandRules) -> str:
    """How many agents a run of this band starts, as `3` or `3–5`."""
    agents = [step for step in flow.steps if step.kind is StepKind.AGENT]
    spine = [step for step in agents if step.spine]
    least = sum(step.when is None for step in spine)
    batches = sum(rules.caps.batches for step in spine if step.each is not None)
    single = sum(step.each is None for step in spine)
    most = single + batches + min(rules.caps.specialists, len(agents) - len(spine))
    return str(most) if least == most else f"{least}–{most}"


def _usage_order(declared: Input) -> tuple[bool, bool, int]:
    """Flags first, then what is given by its place, the quoted text last."""
    by_place = declared.position is not None
    return (declared.focus, by_place, declared.position or 0)


def _hint(declared: Input) -> str:
    match declared.type:
        case InputType.FLAG:
            hint = str(declared.flag)
        case InputType.GIT_REF:
            hint = f"{declared.flag} REF"
        case InputType.ENUM:
            hint = "|".join(declared.choices)
        case _ if declared.focus:
            hint = f'"{declared.name}"'
        case _ if declared.position is None:
            hint = f"{declared.flag} {declared.name.upper()}"
        case _:
            hint = f"{declared.name}…" if declared.many else declared.name
    if declared.flag and declared.type is InputType.ENUM:
        hint = f"{declared.flag} {hint}"
    return hint if declared.required else f"[{hint}]"
