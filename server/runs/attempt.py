"""One attempt of an agent step: its order, and the judgement of what came back."""

import asyncio
from pathlib import Path

from flows import briefing, results
from flows.briefing import Prompt, Repair
from flows.evidence.schema import EvidenceError
from flows.facts import Facts
from flows.planner import BYTES_PER_TOKEN, FIRST_REQUEST_TOKENS
from flows.results import Accepted
from flows.schemas import schema_for
from protocol.plan import Caps, PlannedStep
from protocol.resources import Usage
from server.ports import (
    AgentFailure,
    AgentOrder,
    AgentResult,
    AgentUnavailable,
    AttemptLimits,
    AttemptRef,
    Emit,
    Probe,
    RunRecord,
    StoreUnavailable,
)
from server.runs.models import Ready
from server.runs.rooms import Clocks, Rooms

PATIENCE = 3.0
"""So many times the measured reading time may pass until the first sign."""


async def run_agent(
    rooms: Rooms,
    record: RunRecord,
    step: PlannedStep,
    *,
    ref: AttemptRef,
    session_id: str,
    facts: Facts,
    repair: Repair | None,
    emit: Emit,
) -> AgentResult:
    """Make the attempt; a missing agent, endpoint or store is a failure like any other."""
    try:
        ready = await rooms.models.ready_again(record.plan.endpoint_of(step))
        order = await _order(
            rooms,
            record,
            step,
            ref=ref,
            session_id=session_id,
            facts=facts,
            repair=repair,
            ready=ready,
        )
        return await rooms.agent.run(order, emit)
    except AgentUnavailable as error:
        hint = f" ({error.hint})" if error.hint else ""
        return not_run(AgentFailure(reason=error.reason, message=f"{error.message}{hint}"))
    except StoreUnavailable as error:
        return not_run(AgentFailure(reason="store_unavailable", message=str(error), retryable=True))


async def judge(
    rooms: Rooms,
    record: RunRecord,
    step: PlannedStep,
    *,
    result: AgentResult,
    facts: Facts,
) -> Accepted | AgentFailure:
    """Check the result against the evidence rules, in a thread: it reads the pinned tree."""
    if result.failure is not None:
        return result.failure
    tree_id = record.plan.tree.id
    try:
        return await asyncio.to_thread(
            results.accept,
            record.plan,
            step,
            result.raw,
            facts,
            rooms.trees.view(tree_id),
            root=str(rooms.trees.root(tree_id)),
        )
    except EvidenceError as error:
        return AgentFailure(reason="invalid_result", message=str(error), repairable=True)


def not_run(failure: AgentFailure) -> AgentResult:
    """The result of an attempt that never had a process."""
    return AgentResult(
        raw=None,
        text="",
        failure=failure,
        usage=Usage(),
        exit_code=None,
        receipt=None,
        denied_tools=0,
    )


async def _order(
    rooms: Rooms,
    record: RunRecord,
    step: PlannedStep,
    *,
    ref: AttemptRef,
    session_id: str,
    facts: Facts,
    repair: Repair | None,
    ready: Ready,
) -> AgentOrder:
    plan = record.plan
    root = rooms.trees.root(plan.tree.id)
    project = await rooms.store.project(plan.project_id)
    if project is None or step.output is None:
        raise AgentUnavailable("plan_unusable", "the plan's project or output is not known here")
    prompt = await asyncio.to_thread(
        briefing.compose,
        rooms.catalogue.briefs_of(rooms.catalogue.get(plan.flow)),
        plan,
        step,
        rooms.trees.view(plan.tree.id),
        root=str(root),
        marker=rooms.ids.marker(),
        diff=await rooms.store.patches(ref.run_id),
        submitted=results.submitted(plan, facts),
        repair=repair,
    )
    return AgentOrder(
        ref=ref,
        session_id=session_id,
        prompt=prompt,
        schema=schema_for(step.output, plan.caps),
        tree=root,
        repository=Path(project.path),
        endpoint=ready.model.endpoint,
        limits=limits_of(record.plan.caps, ready, prompt, rooms.clocks),
    )


def limits_of(caps: Caps, ready: Ready, prompt: Prompt, clocks: Clocks) -> AttemptLimits:
    """The limits of an attempt: the band's caps, and the clocks of its own endpoint.

    All clocks begin at the spawn, and that is after the wait for a slot.
    """
    model, probe = ready
    prefill = prefill_seconds(prompt, probe)
    patient = max(clocks.first_byte, PATIENCE * prefill)
    return AttemptLimits(
        turns=caps.turns,
        tool_calls=caps.tool_calls,
        answer_tokens=caps.tokens,
        context_tokens=probe.context_tokens,
        total_seconds=float(caps.seconds),
        first_byte_seconds=model.first_byte_seconds or patient,
        idle_seconds=model.idle_seconds or clocks.idle,
        prefill_seconds=prefill,
    )


def prefill_seconds(prompt: Prompt, probe: Probe) -> float:
    """How long the model should read the first request, by measurement; 0 when there is none.

    A server reads for all its slots at once, so each of them may be as slow as all together: what
    our own agents do there is no stall of this one.
    """
    size = len(prompt.system.encode()) + len(prompt.user.encode())
    tokens = FIRST_REQUEST_TOKENS + size / BYTES_PER_TOKEN
    return tokens * (probe.prefill_seconds_per_token or 0.0) * probe.slots
