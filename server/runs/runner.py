"""All live runs: one task each, owned here."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flows.facts import Facts
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import RunId, StepId, UserId
from protocol.plan import FlowPlan, StepKind
from protocol.states import RunStatus, StepStatus
from server.logs import logger
from server.ports import AgentUnavailable, RunRecord
from server.runs import tell
from server.runs.closing import close_run
from server.runs.conductor import Conductor
from server.runs.models import needed_endpoints
from server.runs.rooms import Rooms

log = logger(__name__)

CancelOutcome = Literal["cancelling", "already_terminal"]
STOP_SECONDS = 10.0
GIVING_UP_SECONDS = 5.0


class Live(NamedTuple):
    """A run that is being conducted: its conductor, as soon as there is one, and its task."""

    ready: "asyncio.Future[Conductor]"
    task: "asyncio.Task[None]"
    user: UserId


class Runner:
    """Starts, steers and stops the conductors. `start()` returns when every unfinished run goes
    on; `stop()` parks what is running and returns when no process is left."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._live: dict[RunId, Live] = {}
        self._stopping = False

    async def start(self) -> None:
        for run_id in await self._rooms.store.unfinished():
            record = await self._rooms.store.get(run_id)
            if record is not None:
                self.begin(run_id, record.plan.tree.id, record.user_id)

    @property
    def count(self) -> int:
        """How many runs have not ended."""
        return len(self._live)

    def live(self, user: UserId) -> int:
        """How many runs of the user have not ended."""
        return sum(live.user == user for live in self._live.values())

    def begin(self, run_id: RunId, tree_id: str, user: UserId) -> None:
        """Conduct a stored run, unless that is being done, it has ended, or the server stops.

        It waits for nothing, so whoever has made a run durable can begin it in the same breath.
        The pinned copy is held from here to the end.
        """
        if run_id in self._live or self._stopping:
            return
        ready: asyncio.Future[Conductor] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._conduct(run_id, ready), name=f"run {run_id}")
        self._live[run_id] = Live(ready, task, user)
        held = ExitStack()
        held.enter_context(self._rooms.trees.hold(tree_id))
        task.add_done_callback(lambda _: held.close())

    async def stop(self) -> None:
        """Park every run within the deadline; they go on at the next start."""
        self._stopping = True
        tasks = [live.task for live in self._live.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            if left:
                self._rooms.gave_up.set()
                await asyncio.wait(left, timeout=GIVING_UP_SECONDS)

    async def cancel(self, record: RunRecord, step_id: StepId | None = None) -> CancelOutcome:
        """Stop a run or one of its steps. Recorded first; the end follows when nothing runs."""
        run_id = record.run.id
        if step_id is not None:
            return await self._cancel_step(record, step_id)
        frames = tell.run_status(run_id, RunStatus.CANCELLING, reason="cancelled_by_user")
        if await self._rooms.store.change_run(run_id, RunStatus.CANCELLING, frames):
            # Looked up after the change: a conductor that is being made has read it or is told.
            conductor = await self._conductor(run_id)
            if conductor is not None:
                conductor.cancel(None)
            return "cancelling"
        latest = await self._rooms.store.get(run_id)
        ended = latest is None or latest.run.status.terminal
        return "already_terminal" if ended else "cancelling"

    async def _cancel_step(self, record: RunRecord, step_id: StepId) -> CancelOutcome:
        if step_id not in {step.id for step in record.plan.steps}:
            raise ProtocolError(
                ErrorCode.NOT_FOUND, f"no step `{step_id}` in this run", field="step_id"
            )
        if not await self._rooms.store.cancel_step(record.run.id, step_id):
            return "already_terminal"
        conductor = await self._conductor(record.run.id)
        if conductor is not None:
            conductor.cancel(step_id)
        return "cancelling"

    async def finish(self, record: RunRecord) -> None:
        """End a run early with a report. Asking twice is asking once."""
        run_id = record.run.id
        frames = tell.run_status(run_id, RunStatus.RUNNING, reason="finishing_early")
        if await self._rooms.store.request_finish(run_id, frames):
            conductor = await self._conductor(run_id)
            if conductor is not None:
                conductor.finish()
            return
        latest = await self._rooms.store.get(run_id)
        if latest is None or latest.run.status.terminal:
            raise ProtocolError(ErrorCode.ALREADY_TERMINAL, "the run has ended", field="run_id")

    async def _conductor(self, run_id: RunId) -> Conductor | None:
        """The conductor of a live run; one that is being made is waited for."""
        live = self._live.get(run_id)
        if live is None:
            return None
        waited: list[asyncio.Future[Any]] = [live.ready, live.task]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return live.ready.result() if live.ready.done() else None

    async def _conduct(self, run_id: RunId, ready: "asyncio.Future[Conductor]") -> None:
        try:
            record = await self._rooms.record(lambda: self._rooms.store.get(run_id))
            if record is None or record.run.status.terminal:
                return
            await self._conduct_stored(record, ready)
            log.info("run_ended", run_id=run_id)
        finally:
            del self._live[run_id]

    async def _conduct_stored(self, record: RunRecord, ready: "asyncio.Future[Conductor]") -> None:
        try:
            facts = await self._rooms.record(lambda: self._rooms.store.facts(record.run.id))
            unusable = await self._unusable(record, facts)
            if unusable:
                await self._fail(record, unusable)
                return
            conductor = Conductor(record, facts, self._rooms)
            ready.set_result(conductor)
            await conductor.conduct()
        except Exception:
            # A defect: the run ends by name instead of hanging for ever.
            log.exception("run_broke", run_id=record.run.id)
            await self._fail(record, "internal")

    async def _unusable(self, record: RunRecord, facts: Facts) -> str | None:
        """Why a stored plan cannot be conducted by this server, if it cannot."""
        plan = record.plan
        flow = self._rooms.catalogue.flows.get(plan.flow)
        known = self._rooms.catalogue.hashes(flow) if flow else {}
        if flow is None or any(known.get(name) != value for name, value in plan.hashes.items()):
            return "flow_changed"
        if self._elsewhere(plan, facts):
            return "endpoint_changed"
        if await self._outside(plan):
            return "project_not_permitted"
        return None if await self._rooms.trees.exists(plan.tree.id) else "tree_missing"

    def _elsewhere(self, plan: FlowPlan, facts: Facts) -> bool:
        """Whether what is left to do was planned for a model that the settings no longer have.

        Once an agent has delivered, that stands: the steps that cannot run fail one by one.
        """
        delivered = any(
            step.kind is StepKind.AGENT and facts.steps[step.id].status is StepStatus.COMPLETED
            for step in plan.steps
        )
        try:
            for endpoint in needed_endpoints(plan, facts):
                self._rooms.models.frozen(endpoint)
        except AgentUnavailable as error:
            log.warning("endpoint_changed", flow=plan.flow, error=error.message)
            return not delivered
        return False

    async def _outside(self, plan: FlowPlan) -> bool:
        """Whether the settings no longer permit the project. One that is gone is no matter: agents
        read the copy."""
        project = await self._rooms.store.project(plan.project_id)
        try:
            if project is not None:
                await self._rooms.trees.check(Path(project.path))
        except ProtocolError as error:
            return error.code is ErrorCode.FORBIDDEN
        return False

    async def _fail(self, record: RunRecord, reason: str) -> None:
        facts = await self._rooms.store.facts(record.run.id)
        await close_run(self._rooms, record, facts, status=RunStatus.FAILED, reason=reason)
