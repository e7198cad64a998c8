"""One live run: decide with the pure engine, act, record, decide again.

The conductor owns every task of its run. What it knows is what the store holds, so a new conductor
goes on where the last one was, whatever ended that one.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, assert_never

import msgspec

from flows import engine, results
from flows.briefing import Repair
from flows.facts import Facts, StepFact
from flows.results import Accepted
from protocol.ids import StepId
from protocol.plan import PlannedStep
from protocol.resources import Limit, Queue
from protocol.states import RunStatus, StepStatus
from server.logs import logger
from server.ports import (
    AgentFailure,
    AgentFrame,
    AgentResult,
    AttemptCancelled,
    AttemptRef,
    RunRecord,
    StepChange,
)
from server.runs import attempt, back_off, tell
from server.runs.closing import close_run
from server.runs.rooms import Rooms
from server.runs.slots import Line, Slots
from server.shielding import to_the_end

log = logger(__name__)


class Conductor:
    """Conducts one run from what is stored of it to its end."""

    def __init__(self, record: RunRecord, facts: Facts, rooms: Rooms) -> None:
        self._run_id = record.run.id
        self._record = record
        self._plan = record.plan
        self._facts = facts
        self._rooms = rooms
        self._steps = {step.id: step for step in record.plan.steps}
        self._wake = asyncio.Event()
        self._working: dict[StepId, asyncio.Task[None]] = {}
        self._repairs: dict[StepId, Repair] = {}
        self._cut_short: dict[StepId, AgentResult] = {}
        """What was seen of attempts that were cancelled, until that is recorded."""
        self._pauses: dict[StepId, float] = {}
        self._parallel = Slots(record.plan.caps.parallel)
        # Steps that were in the queue already when this conductor took over.
        self._were_queued: set[StepId] = set()
        self._ended = False

    async def conduct(self) -> None:
        """Go on until the run has ended. Cancelled, it parks what is running for the next start."""
        try:
            await self._resume()
            async with asyncio.TaskGroup() as group:
                while not self._ended:
                    self._wake.clear()
                    await self._act(group)
                    if not self._ended:
                        await self._wake.wait()
        except asyncio.CancelledError:
            await to_the_end(self._park())
            raise

    def cancel(self, step_id: StepId | None) -> None:
        """Stop the run or one of its steps (recorded already)."""
        self._note(engine.CancelRequested(step_id=step_id))

    def finish(self) -> None:
        """End early with a report (recorded already)."""
        self._note(engine.FinishRequested())

    # --- deciding -------------------------------------------------------------------------------

    def _note(self, event: engine.Event) -> None:
        self._facts = engine.apply(self._plan, self._facts, event)
        self._wake.set()

    def _know(self, step_id: StepId, recorded: StepFact) -> None:
        """Take what was decided and is recorded by now. Decided anew it could be another end: a
        wish to stop may have come meanwhile, and stands beside it."""
        wish = self._facts.steps[step_id].cancelling
        fact = msgspec.structs.replace(recorded, cancelling=wish)
        steps = {**self._facts.steps, step_id: fact}
        self._facts = msgspec.structs.replace(self._facts, steps=steps)
        self._wake.set()

    async def _act(self, group: asyncio.TaskGroup) -> None:
        """Perform decisions until none is left to perform now."""
        while actions := engine.decide(self._plan, self._facts):
            self._stop_all(actions)
            for action in actions:
                # What is recorded must be known: a stop in between would park what has ended.
                await to_the_end(self._perform(group, action))
                if isinstance(action, engine.End):
                    return

    async def _perform(self, group: asyncio.TaskGroup, action: engine.Action) -> None:
        match action:
            case engine.StartAgent():
                await self._start(group, self._steps[action.step_id])
            case engine.Compute():
                await self._compute(self._steps[action.step_id])
            case engine.Skip():
                await self._skip(self._steps[action.step_id], action.reason)
            case engine.CancelStep():
                await self._cancel_step(self._steps[action.step_id])
            case engine.End():
                await self._end(action.status, action.reason)
            case _:
                assert_never(action)

    # --- beginning and parking ------------------------------------------------------------------

    async def _resume(self) -> None:
        """Put what an earlier conductor left running back into the queue."""
        if self._record.run.status is RunStatus.QUEUED:
            frames = tell.run_status(self._run_id, RunStatus.RUNNING)
            await self._rooms.record(
                lambda: self._rooms.store.change_run(self._run_id, RunStatus.RUNNING, frames)
            )
        left = {step_id: fact.status for step_id, fact in self._facts.steps.items()}
        self._note(engine.Restarted())
        for step_id, status in left.items():
            if status is StepStatus.QUEUED:
                self._were_queued.add(step_id)
            if status is StepStatus.RUNNING:
                await self._put_back(step_id, reason="server_restarted", crashed=True)

    async def _park(self) -> None:
        """At a stop of the server: running steps wait for the next start, uncounted."""
        for step_id, fact in self._facts.steps.items():
            if fact.status is StepStatus.RUNNING and not self._ended:
                await self._put_back(step_id, reason="server_stopped", crashed=False)

    async def _put_back(self, step_id: StepId, *, reason: str, crashed: bool) -> None:
        fact = self._facts.steps[step_id]
        given_up = crashed and fact.status is StepStatus.FAILED
        status = StepStatus.FAILED if given_up else StepStatus.QUEUED
        reason = fact.reason or reason if given_up else reason
        ref, step = self._ref(step_id), self._steps[step_id]
        result = self._cut_short.pop(step_id, None)
        frames = tell.attempt_end(ref, step, status, result=result, reason=reason)
        change = _change(status, result, reason=reason, crashed=crashed)
        await self._rooms.record(lambda: self._rooms.store.change_step(ref, change, frames))

    def _ref(self, step_id: StepId) -> AttemptRef:
        return AttemptRef(self._run_id, step_id, self._facts.steps[step_id].attempt)

    # --- agents ---------------------------------------------------------------------------------

    async def _start(self, group: asyncio.TaskGroup, step: PlannedStep) -> None:
        ending = self._working.get(step.id)
        if ending is not None:
            await asyncio.wait([ending])
        line = self._line(step)
        try:
            await self._queue(step, line)
            task = group.create_task(self._work(step, line), name=f"step {step.id}")
        except BaseException:
            line.leave()
            raise
        # A task that is cancelled before its first line runs none of its clean-up.
        task.add_done_callback(lambda _: line.leave())
        self._working[step.id] = task

    def _line(self, step: PlannedStep) -> Line:
        """The way to the step's agent: the run's own limit, the endpoint's, the machine's."""
        models = self._rooms.models
        limits = [
            (Limit.RUN_PARALLEL, self._parallel),
            (Limit.ENDPOINT_SLOTS, models.slots(self._plan.endpoint_of(step).name)),
            (Limit.HOST_MEMORY, models.memory),
        ]
        # An endpoint that is gone has no slots; the attempt will say so.
        there = [(limit, slots) for limit, slots in limits if slots is not None]
        return Line(there, self._record.user_id)

    async def _queue(self, step: PlannedStep, line: Line) -> None:
        """Record that the step waits, and for what; a step that is put back waits already."""
        fact = self._facts.steps[step.id]
        ref = self._ref(step.id)
        if not fact.retries:
            line.join()
        waits_already = fact.attempt or fact.crashes or step.id in self._were_queued
        if not waits_already:
            queue = self._place(step, line)
            frames = tell.step_queued(ref, step, queue)
            change = StepChange(status=StepStatus.QUEUED, reason=queue.limit if queue else None)
            await self._rooms.record(lambda: self._rooms.store.change_step(ref, change, frames))
        self._note(engine.StepQueued(step_id=step.id))

    def _place(self, step: PlannedStep, line: Line) -> Queue | None:
        """Where the step stands, unless people know the limit that holds it."""
        held = line.held
        if held is None or held.limit is line.told:
            return None
        line.told = held.limit
        host = self._plan.endpoint_of(step).host
        return Queue(limit=held.limit, place=held.place, host=host)

    async def _work(self, step: PlannedStep, line: Line) -> None:
        """One attempt, from the queue to its recorded end."""
        try:
            await self._back_off(step.id)
            await self._pass(step, line)
            session_id = self._rooms.ids.uuid()
            await to_the_end(self._open(step, session_id))
            result = await self._run_agent(step, session_id)
            line.leave()
            await to_the_end(self._settle(step, result))
        except AttemptCancelled as cancelled:
            self._cut_short[step.id] = cancelled.result
            raise
        finally:
            del self._working[step.id]
            self._wake.set()

    async def _pass(self, step: PlannedStep, line: Line) -> None:
        """Wait for everything that an agent needs. No clock of the attempt runs meanwhile."""
        line.join()
        while line.held is not None:
            queue = self._place(step, line)
            if queue is not None:
                await self._tell_waiting(step, queue)
            await line.move()

    async def _tell_waiting(self, step: PlannedStep, queue: Queue) -> None:
        ref = self._ref(step.id)
        frames = tell.waiting(ref, queue)
        await self._rooms.record(lambda: self._rooms.store.tell_waiting(ref, frames))

    async def _run_agent(self, step: PlannedStep, session_id: str) -> AgentResult:
        ref = self._ref(step.id)

        async def emit(frames: Sequence[AgentFrame]) -> None:
            await self._rooms.store.append(ref, frames)

        try:
            return await attempt.run_agent(
                self._rooms,
                self._record,
                step,
                ref=ref,
                session_id=session_id,
                facts=self._facts,
                repair=self._repairs.pop(step.id, None),
                emit=emit,
            )
        except Exception:
            # A defect of ours must not take the other steps with it: it fails this one, by name.
            log.exception("attempt_broke", run_id=self._run_id, step_id=step.id)
            return attempt.not_run(_internal())

    async def _back_off(self, step_id: StepId) -> None:
        """Wait before a repeated attempt. A cancellation ends it at once."""
        seconds = self._pauses.pop(step_id, None)
        retries = self._facts.steps[step_id].retries
        if seconds is None and retries:
            # Another conductor knew how long.
            seconds = back_off.pause(None, retries=retries, chance=_chance())
        if seconds:
            await self._rooms.clock.sleep(seconds)

    async def _open(self, step: PlannedStep, session_id: str | None) -> None:
        """Record the next attempt as running."""
        ref = self._ref(step.id)
        upcoming = AttemptRef(ref.run_id, ref.step_id, ref.attempt + 1)
        frames = tell.step_status(upcoming, step, StepStatus.RUNNING, session_id=session_id)
        opened = await self._rooms.record(
            lambda: self._rooms.store.start_attempt(
                ref, task_id=self._rooms.ids.uuid(), session_id=session_id, frames=frames
            )
        )
        self._note(engine.StepStarted(step_id=step.id, attempt=opened.attempt))

    async def _settle(self, step: PlannedStep, result: AgentResult) -> None:
        """Judge an attempt and record what becomes of its step."""
        try:
            outcome = await attempt.judge(
                self._rooms, self._record, step, result=result, facts=self._facts
            )
        except Exception:
            log.exception("judgement_broke", run_id=self._run_id, step_id=step.id)
            outcome = _internal()
        if isinstance(outcome, Accepted):
            await self._delivered(step, outcome, result)
        else:
            await self._failed(step, outcome, result)

    async def _delivered(
        self, step: PlannedStep, accepted: Accepted, result: AgentResult | None
    ) -> None:
        ref = self._ref(step.id)
        frames = tell.attempt_end(
            ref, step, StepStatus.COMPLETED, result=result, findings=accepted.findings
        )
        change = _change(StepStatus.COMPLETED, result, output=accepted.output)
        await self._rooms.record(lambda: self._rooms.store.change_step(ref, change, frames))
        self._note(engine.StepDelivered(step_id=step.id, output=accepted.output))

    async def _failed(
        self, step: PlannedStep, failure: AgentFailure, result: AgentResult | None
    ) -> None:
        ref = self._ref(step.id)
        failure = back_off.bounded(failure, now=self._rooms.clock.now())
        event = engine.StepFailed(
            step_id=step.id,
            reason=failure.reason,
            retryable=failure.retryable,
            repairable=failure.repairable,
        )
        before = self._facts.steps[step.id]
        after = engine.apply(self._plan, self._facts, event).steps[step.id]
        again = after.status is not StepStatus.FAILED
        status = StepStatus.QUEUED if again else StepStatus.FAILED
        retried, message = after.retries > before.retries, failure.message
        self._pauses[step.id] = 0.0
        if retried:
            seconds = back_off.pause(failure, retries=after.retries, chance=_chance())
            self._pauses[step.id] = seconds
            message += f"; podium tries again in {seconds:.0f} s"
        frames = tell.attempt_end(
            ref, step, status, result=result, reason=failure.reason, message=message
        )
        change = _change(
            status,
            result,
            reason=failure.reason,
            error=failure.message,
            retried=retried,
            repairing=after.repairs > before.repairs,
        )
        await self._rooms.record(lambda: self._rooms.store.change_step(ref, change, frames))
        if change.repairing and result is not None:
            self._repairs[step.id] = Repair(text=result.text, error=failure.message)
        self._know(step.id, after)

    # --- the other actions ----------------------------------------------------------------------

    async def _compute(self, step: PlannedStep) -> None:
        """A code step: pure, and in a thread, because it may have many findings to compare."""
        await self._open(step, None)
        try:
            accepted = await asyncio.to_thread(results.compute, self._plan, step, self._facts)
        except Exception:
            log.exception("code_step_broke", run_id=self._run_id, step_id=step.id)
            await self._failed(step, _internal(), None)
        else:
            await self._delivered(step, accepted, None)

    async def _skip(self, step: PlannedStep, reason: str) -> None:
        """Record that the step does not run; one that waits for a slot stops waiting."""
        waiting = self._working.get(step.id)
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait([waiting])
        await self._drop(step, StepStatus.SKIPPED, reason)
        self._note(engine.StepSkipped(step_id=step.id, reason=reason))

    def _stop_all(self, actions: list[engine.Action]) -> None:
        """Begin all kills at once; they are waited for one by one."""
        for action in actions:
            if isinstance(action, engine.CancelStep) and action.step_id in self._working:
                self._working[action.step_id].cancel()

    async def _cancel_step(self, step: PlannedStep) -> None:
        """Kill the step's attempt, if any, and record the end unless it settled first."""
        task = self._working.get(step.id)
        if task is not None:
            await asyncio.wait([task])
        if self._facts.steps[step.id].status.terminal:
            return
        seen = self._cut_short.get(step.id)
        if seen is not None and seen.failure is not None:
            await self._failed(step, seen.failure, self._cut_short.pop(step.id))
        else:
            await self._drop(step, StepStatus.CANCELLED, "cancelled")
            self._note(engine.StepCancelled(step_id=step.id))

    async def _drop(self, step: PlannedStep, status: StepStatus, reason: str) -> None:
        ref, result = self._ref(step.id), self._cut_short.pop(step.id, None)
        frames = tell.attempt_end(ref, step, status, result=result, reason=reason)
        change = _change(status, result, reason=reason)
        await self._rooms.record(lambda: self._rooms.store.change_step(ref, change, frames))

    async def _end(self, status: RunStatus, reason: str | None) -> None:
        await close_run(self._rooms, self._record, self._facts, status=status, reason=reason)
        self._ended = True


def _chance() -> float:
    return random.random()  # noqa: S311 - no secret


def _change(status: StepStatus, result: AgentResult | None, **more: Any) -> StepChange:
    """The end of an attempt, with its cost and its receipt if it had any. `more` are further fields
    of the change."""
    change = StepChange(status=status, **more)
    if result is None:
        return change
    return msgspec.structs.replace(
        change,
        exit_code=result.exit_code,
        usage=result.usage,
        receipt=result.receipt,
        denied_tools=result.denied_tools,
    )


def _internal() -> AgentFailure:
    return AgentFailure(
        reason="internal", message="podium failed at this step; the server's log says where"
    )
