"""The plan of a run: the same flow, invocation and situation always give the same plan."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from flows import bands, signals
from flows.canonical import canonical
from flows.expressions import Scope as ExpressionScope
from flows.inputs import with_defaults
from flows.model import Flow, Step, step_id
from flows.paths import FileKind, kind_of
from flows.registry import SHARED_BRIEFS
from flows.roster import Roster, choose
from flows.situation import Situation
from flows.slash import Invocation
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import PlanId, StepId
from protocol.plan import (
    Caps,
    FlowPlan,
    PlannedStep,
    Scope,
    ScopeFile,
    StepKind,
)

__all__ = ["Situation", "plan"]

BYTES_PER_TOKEN = 4
FIRST_REQUEST_TOKENS = 4_400
"""What the agent itself sends before any brief (measured: 17 KB)."""
BRIEF_TOKENS = 3_000
"""The shared briefs and the role's own: their size is bounded by `registry.MAX_BRIEF_BYTES`."""
MAX_DIFF_BYTES = 24_000
"""Of the patches in one prompt, and of the findings submitted to a validator."""
MAX_TEXT_BYTES = 24_000
"""Of each text input in one prompt."""
PATH_TOKENS = 16
MAX_LEFT_OUT = 20
"""Files over the cap that a plan names; the rest is counted."""
READING_TOKENS = 4_000
"""Room for one full answer of the file reader (measured: 12.8 KB)."""


def plan(
    flow: Flow, invocation: Invocation, situation: Situation, hashes: Mapping[str, str]
) -> FlowPlan:
    """Decide everything about a run that can be decided before its first agent starts.

    `hashes` are those of `Catalogue.hashes(flow)`. Raises ProtocolError `bad_arguments` when there
    is nothing to review, when nobody is left to do it, or when a step cannot fit the window of the
    model.
    """
    inputs = with_defaults(flow, invocation.inputs)
    _require_something(flow, situation)
    present = signals.count(flow, situation, inputs)
    hits = {signal.id: signal.hits for signal in present}
    band = bands.pick(flow, invocation.band, ExpressionScope(inputs=inputs, signals=hits))
    caps = flow.bands[band.name].caps
    roster = choose(flow, invocation, band, present)
    _require_somebody(roster)
    scope = _scope(flow, situation, caps)
    steps = [_with_model(step, situation) for step in _planned_steps(flow, roster, scope, caps)]
    decided = FlowPlan(
        plan_id=PlanId(""),
        project_id=situation.project_id,
        flow=flow.id,
        flow_version=flow.version,
        title=flow.title,
        command=canonical(invocation, flow),
        band=band,
        caps=caps,
        inputs=inputs,
        tree=situation.tree,
        scope=scope,
        signals=present,
        roster=roster.seats,
        omitted=roster.omitted,
        steps=steps,
        hashes=_used(hashes, steps),
        endpoint=situation.endpoint,
        warnings=roster.warnings,
    )
    _require_room(decided, situation)
    return msgspec.structs.replace(decided, plan_id=_hash_of(decided))


# ── scope ────────────────────────────────────────────────────────────────────────────────────────


def _require_something(flow: Flow, situation: Situation) -> None:
    if flow.uses_scope and not situation.files and not situation.deleted:
        tree = situation.tree
        if not tree.files and not tree.left_out:
            raise ProtocolError(
                ErrorCode.BAD_ARGUMENTS,
                "this folder has no files",
                field="project_id",
                hint="choose another project: --project DIR",
            )
        raise ProtocolError(
            ErrorCode.BAD_ARGUMENTS,
            f"there is nothing to review: {situation.description}",
            hint="name files or folders, or a base with --base",
        )


def _scope(flow: Flow, situation: Situation, caps: Caps) -> Scope:
    if not flow.uses_scope:
        return Scope(kind="none", description="no files are under review", files=[], total_files=0)
    files = _sample(situation.files, caps.files)
    taken = {file.path for file in files}
    left_out = sorted(file.path for file in situation.files if file.path not in taken)
    return Scope(
        kind=situation.kind,
        description=situation.description,
        files=files,
        total_files=len(situation.files),
        left_out=left_out[:MAX_LEFT_OUT],
        base=situation.base,
        deleted=sorted(situation.deleted),
    )


def _sample(files: list[ScopeFile], limit: int) -> list[ScopeFile]:
    """Take at most `limit` files: what changed before what did not, sources before noise.

    The class that does not fit as a whole is sampled evenly over its sorted paths, so that no
    corner of a large tree is left out only because of its name.
    """
    classes: dict[tuple[bool, FileKind], list[ScopeFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        key = (file.status == "present", kind_of(file.path))
        classes.setdefault(key, []).append(file)
    taken: list[ScopeFile] = []
    for key in sorted(classes):
        taken.extend(_spread(classes[key], limit - len(taken)))
    return sorted(taken, key=lambda file: file.path)


def _spread(files: list[ScopeFile], room: int) -> list[ScopeFile]:
    if len(files) <= room:
        return files
    return [files[place * len(files) // room] for place in range(room)]


# ── steps ────────────────────────────────────────────────────────────────────────────────────────


def _require_somebody(roster: Roster) -> None:
    if not any(step.kind is StepKind.AGENT and step.when is None for step in roster.steps):
        raise ProtocolError(
            ErrorCode.BAD_ARGUMENTS,
            "no role is left to do the work",
            field="--skip",
            hint="name fewer roles with --skip, or others with --only",
        )


def _planned_steps(flow: Flow, roster: Roster, scope: Scope, caps: Caps) -> list[PlannedStep]:
    """Fan the seated steps out, and let each wait for what its template's needs became."""
    paths = [file.path for file in scope.files]
    became: dict[str, list[StepId]] = {}
    planned: list[PlannedStep] = []
    seated = {step.id for step in roster.steps}
    for step in flow.steps:
        needs = [name for need in step.needs for name in became[need]]
        if step.id not in seated:
            # Who waited for an absent step waits for what that one waited for.
            became[step.id] = needs
            continue
        copies = _copies(step, paths, caps)
        became[step.id] = [step_id(step.id, index) for index, _ in copies]
        planned += [_planned(step, index, files, needs) for index, files in copies]
    return planned


def _copies(step: Step, paths: list[str], caps: Caps) -> list[tuple[int | None, list[str]]]:
    """The copies of a step: its place in the fan-out, and its slice of the files."""
    if step.kind is StepKind.CODE or step.output == "verdicts":
        return [(None, [])]
    if step.each is None:
        return [(None, paths)]
    width = max(1, min(caps.batches, -(-len(paths) // step.each.max)))
    edges = [place * len(paths) // width for place in range(width + 1)]
    return [(place + 1, paths[edges[place] : edges[place + 1]]) for place in range(width)]


def _planned(step: Step, index: int | None, files: list[str], needs: list[StepId]) -> PlannedStep:
    return PlannedStep(
        id=step_id(step.id, index),
        kind=step.kind,
        phase=step.phase,
        title=step.title,
        needs=list(dict.fromkeys(needs)),
        when=step.when,
        otherwise=step.otherwise,
        role=step.role,
        function=step.function,
        brief=step.brief,
        output=step.output,
        prefix=step.prefix,
        index=index,
        files=files,
        dimensions=list(step.dimensions),
        required=step.required,
        on_failure=step.on_failure,
        retries=step.retries,
        quorum=step.quorum,
    )


def _with_model(step: PlannedStep, situation: Situation) -> PlannedStep:
    """Freeze the endpoint of a role whose model is not the plan's."""
    own = situation.roles.get(step.role) if step.role is not None else None
    if own is None or own.endpoint == situation.endpoint:
        return step
    return msgspec.structs.replace(step, endpoint=own.endpoint)


def _used(hashes: Mapping[str, str], steps: list[PlannedStep]) -> dict[str, str]:
    """The hashes of what the plan uses: its outputs, its briefs and the shared briefs."""
    templates = {step.brief for step in steps} | {step.output for step in steps}
    return {
        name: value
        for name, value in sorted(hashes.items())
        if name in templates or name.partition("@")[0] in SHARED_BRIEFS
    }


# ── the model's window ───────────────────────────────────────────────────────────────────────────


def _require_room(decided: FlowPlan, situation: Situation) -> None:
    """Refuse what would fail in the model: an agent that overflows its window only costs time."""
    agents = [step for step in decided.steps if step.kind is StepKind.AGENT]
    short = []
    for step in agents:
        window = _window(step, situation)
        needed = _tokens(step, decided, situation.diff)
        if window is not None and needed > window:
            short.append((needed, step.id, decided.endpoint_of(step).model, window))
    if short:
        needed, step_id, model, window = max(short)
        raise ProtocolError(
            ErrorCode.BAD_ARGUMENTS,
            f"step {step_id} needs about {needed} tokens and {model} has {window}",
            field="model",
            hint=f"use a model with a window of {needed} tokens or more, or name fewer files",
        )


def _window(step: PlannedStep, situation: Situation) -> int | None:
    """The window of the step's own model."""
    own = situation.roles.get(step.role) if step.endpoint and step.role else None
    return own.context_tokens if own else situation.context_tokens


def _tokens(step: PlannedStep, decided: FlowPlan, diff: Mapping[str, str]) -> int:
    """Estimate what one step needs at its first useful moment: prompt, one file, its answer."""
    patches = sum(len(diff.get(path, "")) for path in step.files)
    data = MAX_DIFF_BYTES if step.output == "verdicts" else min(patches, MAX_DIFF_BYTES)
    texts = sum(min(len(it), MAX_TEXT_BYTES) for it in decided.inputs.values() if _is_text(it))
    return (
        FIRST_REQUEST_TOKENS
        + BRIEF_TOKENS
        + (data + texts) // BYTES_PER_TOKEN
        + PATH_TOKENS * len(step.files)
        + READING_TOKENS
        + decided.caps.tokens
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _hash_of(decided: FlowPlan) -> PlanId:
    """Hash the plan into the form of a UUID."""
    digest = hashlib.sha256(msgspec.json.encode(decided, order="deterministic")).hexdigest()
    parts = (digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32])
    return PlanId("-".join(parts))
