"""Validation of a flow: everything that can be wrong with one is found before it is offered."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import assert_never

from flows import expressions
from flows.model import PREFIXES, Flow, Input, InputType, Step
from flows.outputs import OUTPUTS
from flows.paths import matcher
from protocol.commands import Band
from protocol.plan import Caps, StepKind

FUNCTIONS = frozenset({"merge", "reconcile", "report"})
"""What a code step may compute; `results.py` has them."""

RENDERERS = frozenset(
    "summary recommendation critical warnings suggestions security unverified settled deferred"
    " cleared coverage answer missing suspected next".split()
)
"""What may fill a section of the report; `report/` has them."""

OUTCOMES = frozenset({"findings", "clean", "partial"})
BUILTINS = frozenset({"flows", "runs", "cancel", "finish", "help"})
RESERVED_FLAGS = frozenset({"--only", "--skip", "--exclude"})
FLAGGED_TYPES = frozenset({InputType.FLAG, InputType.GIT_REF})
WITHOUT_WEB = (
    "no step is given the web: an agent that reads the repository could carry it out, and a step"
    " that sees none of it does not exist yet"
)
TEXT_TYPES = frozenset({InputType.TEXT, InputType.QUESTION})


def problems(flow: Flow, briefs: Mapping[str, str]) -> list[str]:
    """Return one sentence for each thing wrong with `flow`; none means that it can be offered.

    `briefs` has the texts of every brief by `name@version`.
    """
    return [
        *_name_problems(flow),
        *_input_problems(flow),
        *_signal_problems(flow),
        *_band_problems(flow),
        *_step_problems(flow, briefs),
        *_order_problems(flow),
        *_prefix_problems(flow),
        *_section_problems(flow),
        *_next_problems(flow),
    ]


def _name_problems(flow: Flow) -> Iterator[str]:
    for name in (flow.id, *flow.aliases):
        if name in BUILTINS:
            yield f"the name {name!r} is a built-in command"


def _input_problems(flow: Flow) -> Iterator[str]:
    yield from _repeated("input", (declared.name for declared in flow.inputs))
    flags = [declared.flag for declared in flow.inputs if declared.flag is not None]
    yield from _repeated("flag", [*flags, *RESERVED_FLAGS])
    positions = sorted(d.position for d in flow.inputs if d.position is not None)
    if positions != list(range(len(positions))):
        yield "the positions of inputs are not 0, 1, 2 …"
    if flow.primary_input not in {declared.name for declared in flow.inputs}:
        yield f"the primary input {flow.primary_input!r} is not declared"
    if sum(declared.focus for declared in flow.inputs) > 1:
        yield "two inputs take the quoted text"
    for declared in flow.inputs:
        yield from (f"input {declared.name!r}: {it}" for it in _one_input(declared, positions))


def _one_input(declared: Input, positions: list[int]) -> Iterator[str]:
    text = declared.type in TEXT_TYPES
    if declared.flag is not None and not declared.flag.startswith("--"):
        yield "a flag starts with `--`"
    if declared.flag is None and declared.type in FLAGGED_TYPES:
        yield f"a {declared.type.value} needs a flag"
    if declared.focus and not text:
        yield "only a text takes the quoted text"
    # Text given by its place alone could not be written as a command: it may hold anything.
    if text and not declared.focus and declared.flag is None:
        yield "a text needs a flag or takes the quoted text"
    if declared.flag is None and declared.position is None and not declared.focus:
        yield "nothing in a command can set it"
    if declared.many and declared.position not in (None, len(positions) - 1):
        yield "only the last positional input takes all that is left"
    if declared.many and declared.type not in TEXT_TYPES | {InputType.TARGET}:
        yield f"a {declared.type.value} takes one value"
    if (declared.type is InputType.ENUM) != bool(declared.choices):
        yield "choices belong to an enum, and an enum has some"
    if set(declared.choices) & set(expressions.BAND_NAMES):
        yield "a choice has the name of a band"
    if declared.required and declared.default is not None:
        yield "it is required and has a default"


def _signal_problems(flow: Flow) -> Iterator[str]:
    yield from _repeated("signal", (signal.id for signal in flow.signals))
    for signal in flow.signals:
        if not signal.over or not signal.globs + signal.regexes:
            yield f"signal {signal.id!r}: looks at nothing"
        try:
            matcher([*signal.globs])
            for regex in signal.regexes:
                re.compile(regex)
        except re.error as error:
            yield f"signal {signal.id!r}: {error}"


def _band_problems(flow: Flow) -> Iterator[str]:
    if Band.SMALL not in flow.bands:
        yield "the small band is missing"
    elif flow.bands[Band.SMALL].when is not None:
        yield "the small band is the default and has no `when`"
    present = [(band, flow.bands[band]) for band in Band if band in flow.bands]
    for band, rules in present:
        if rules.when is not None:
            yield from _expression_problems(flow, rules.when, f"band {band.value!r}", steps=())
        yield from (f"band {band.value!r}: {field} is 0" for field in _zeros(rules.caps))
    for (smaller, low), (larger, high) in pairwise(present):
        for field in Caps.__struct_fields__:
            if getattr(low.caps, field) > getattr(high.caps, field):
                yield f"{field} falls from band {smaller.value!r} to band {larger.value!r}"


def _zeros(caps: Caps) -> list[str]:
    may_be_zero = {"specialists"}
    return [
        field
        for field in Caps.__struct_fields__
        if getattr(caps, field) < 1 and field not in may_be_zero
    ]


def _step_problems(flow: Flow, briefs: Mapping[str, str]) -> Iterator[str]:
    yield from _repeated("step", (step.id for step in flow.steps))
    if not any(step.kind is StepKind.AGENT and step.spine for step in flow.steps):
        yield "no agent step is always there"
    for step in flow.steps:
        match step.kind:
            case StepKind.CODE:
                found = _code_step(step)
            case StepKind.AGENT:
                found = _agent_step(step, flow, briefs)
            case _:
                assert_never(step.kind)
        yield from (f"step {step.id!r}: {problem}" for problem in found)
        if step.when is not None:
            above = _above(flow, step)
            yield from _expression_problems(flow, step.when, f"step {step.id!r}", steps=above)


def _code_step(step: Step) -> Iterator[str]:
    if step.function not in FUNCTIONS:
        yield f"the function {step.function!r} is unknown"
    if step.web:
        yield WITHOUT_WEB
    if step.role or step.brief or step.output or step.prefix or step.each or not step.spine:
        yield "a code step has no role, brief, output, prefix or fan-out, and is spine"


def _agent_step(step: Step, flow: Flow, briefs: Mapping[str, str]) -> Iterator[str]:
    if step.role is None:
        yield "an agent step needs a role"
    if step.web:
        yield WITHOUT_WEB
    if step.function is not None:
        yield "an agent step has no function"
    if step.brief not in briefs:
        yield f"there is no brief {step.brief!r}"
    if step.output not in OUTPUTS:
        yield f"the output {step.output!r} is unknown"
    if step.output == "findings" and step.prefix is None:
        yield "findings need a prefix"
    if step.signal is not None and step.signal not in {signal.id for signal in flow.signals}:
        yield f"the signal {step.signal!r} is not declared"
    if step.spine == (step.signal is not None):
        yield "a specialist has a signal, and a step of the spine has none"
    if step.each is not None and (step.each.max < 1 or not flow.uses_scope):
        yield "a fan-out needs files, and at least one for each batch"


def _order_problems(flow: Flow) -> Iterator[str]:
    """A step names only steps above it, so the order of the file is an order of the run."""
    seen: set[str] = set()
    for step in flow.steps:
        for need in step.needs:
            if need not in seen:
                yield f"step {step.id!r}: needs {need!r}, which is not a step above it"
        seen.add(step.id)
        if step.quorum is not None and step.quorum > len(step.needs):
            yield f"step {step.id!r}: the quorum is more than its needs"


def _prefix_problems(flow: Flow) -> Iterator[str]:
    """Finding ids count inside a prefix, so two steps with the same one would share ids."""
    prefixes = [step.prefix for step in flow.steps if step.prefix is not None]
    yield from _repeated("prefix", prefixes)
    yield from (f"the prefix {prefix!r} is unknown" for prefix in set(prefixes) - PREFIXES)


def _section_problems(flow: Flow) -> Iterator[str]:
    yield from _repeated("section", (section.id for section in flow.sections))
    for section in flow.sections:
        if section.renderer not in RENDERERS:
            yield f"section {section.id!r}: the renderer {section.renderer!r} is unknown"


def _next_problems(flow: Flow) -> Iterator[str]:
    """A report tells a person to run these: nothing but a command of podium belongs there."""
    for outcome, command in flow.next.items():
        if outcome not in OUTCOMES:
            yield f"next: the outcome {outcome!r} is unknown"
        if not command.startswith("/") or not command.isprintable():
            yield f"next: {command!r} is no command"


def _expression_problems(
    flow: Flow, text: str, where: str, *, steps: Iterable[Step]
) -> Iterator[str]:
    try:
        found = expressions.names(expressions.parse(text))
    except expressions.ExpressionError as error:
        yield f"{where}: in `{text}`: {error}"
        return
    known = {f"inputs.{declared.name}" for declared in flow.inputs}
    known |= {f"signals.{signal.id}" for signal in flow.signals}
    outputs = {f"steps.{step.id}.output" for step in steps if step.each is None}
    known |= outputs | {f"steps.{step.id}.status" for step in steps if step.each is None} | {"band"}
    for path in sorted(found.paths - known):
        if not path.startswith(tuple(f"{output}." for output in outputs)):
            yield f"{where}: in `{text}`: {path} is not known there"


def _above(flow: Flow, step: Step) -> list[Step]:
    """The steps that `step` waits for, directly or not: the only ones it can ask about."""
    by_id = {other.id: other for other in flow.steps}
    above: dict[str, Step] = {}
    open_needs = list(step.needs)
    while open_needs:
        need = open_needs.pop()
        if need in by_id and need not in above:
            above[need] = by_id[need]
            open_needs.extend(by_id[need].needs)
    return list(above.values())


def _repeated(what: str, names: Iterable[str]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if times > 1:
            yield f"the {what} {name!r} is there {times} times"
