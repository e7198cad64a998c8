"""All live runs: one task each, owned here."""

import asyncio
from typing import Literal

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import RunId, StepId
from protocol.states import RunStatus
from server.logs import logger
from server.ports import RunRecord
from server.runs import tell
from server.runs.closing import close_run
from server.runs.conductor import Conductor
from server.runs.rooms import Rooms

log = logger(__name__)

CancelOutcome = Literal["cancelling", "already_terminal"]
STOP_SECONDS = 10.0


class Runner:
    """Starts, steers and stops the conductors. `start()` returns when every unfinished run goes
    on; `stop()` parks what is running and returns when no process is left."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._live: dict[RunId, tuple[Conductor, asyncio.Task[None]]] = {}
        self._stopping = False

    async def start(self) -> None:
        for run_id in await self._rooms.store.unfinished():
            await self.begin(run_id)

    async def begin(self, run_id: RunId) -> None:
        """Conduct a stored run, unless that is being done or it has ended."""
        record = await self._rooms.store.get(run_id)
        if record is None or record.run.status.terminal or self._stopping:
            return
        facts = await self._rooms.store.facts(run_id)
        # No await between the check and the entry: two begins make one conductor.
        if run_id in self._live:
            return
        conductor = Conductor(record, facts, self._rooms)
        task = asyncio.create_task(self._conduct(record, conductor), name=f"run {run_id}")
        self._live[run_id] = (conductor, task)

    async def stop(self) -> None:
        """Park every run within the deadline; they go on at the next start."""
        self._stopping = True
        tasks = [task for _, task in self._live.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)

    async def cancel(self, record: RunRecord, step_id: StepId | None = None) -> CancelOutcome:
        """Stop a run or one of its steps. Recorded first; the end follows when nothing runs."""
        run_id = record.run.id
        conductor = self._conductor(run_id)
        if step_id is not None:
            if conductor is None:
                return "already_terminal"
            if not conductor.knows(step_id):
                raise ProtocolError(
                    ErrorCode.NOT_FOUND, f"no step `{step_id}` in this run", field="step_id"
                )
            conductor.cancel(step_id)
            return "cancelling"
        frames = tell.run_status(run_id, RunStatus.CANCELLING, reason="cancelled_by_user")
        if await self._rooms.store.change_run(run_id, RunStatus.CANCELLING, frames):
            if conductor is not None:
                conductor.cancel(None)
            return "cancelling"
        latest = await self._rooms.store.get(run_id)
        ended = latest is None or latest.run.status.terminal
        return "already_terminal" if ended else "cancelling"

    async def finish(self, record: RunRecord) -> None:
        """End a run early with a report. Asking twice is asking once."""
        run_id = record.run.id
        frames = tell.run_status(run_id, RunStatus.RUNNING, reason="finishing_early")
        if await self._rooms.store.request_finish(run_id, frames):
            conductor = self._conductor(run_id)
            if conductor is not None:
                conductor.finish()
            return
        latest = await self._rooms.store.get(run_id)
        if latest is None or latest.run.status.terminal:
            raise ProtocolError(ErrorCode.ALREADY_TERMINAL, "the run has ended", field="run_id")

    def _conductor(self, run_id: RunId) -> Conductor | None:
        live = self._live.get(run_id)
        return live[0] if live else None

    async def _conduct(self, record: RunRecord, conductor: Conductor) -> None:
        run_id = record.run.id
        try:
            unusable = self._unusable(record)
            if unusable:
                await self._fail(record, unusable)
            else:
                await conductor.conduct()
            log.info("run_ended", run_id=run_id)
        except Exception:
            # A defect: the run ends by name instead of hanging for ever.
            log.exception("run_broke", run_id=run_id)
            await self._fail(record, "internal")
        finally:
            del self._live[run_id]

    def _unusable(self, record: RunRecord) -> str | None:
        """Why a stored plan cannot be conducted by this server, if it cannot."""
        plan = record.plan
        flow = self._rooms.catalogue.flows.get(plan.flow)
        known = self._rooms.catalogue.hashes(flow) if flow else {}
        if flow is None or any(known.get(name) != value for name, value in plan.hashes.items()):
            return "flow_changed"
        return None if self._rooms.trees.exists(plan.tree.id) else "tree_missing"

    async def _fail(self, record: RunRecord, reason: str) -> None:
        facts = await self._rooms.store.facts(record.run.id)
        await close_run(self._rooms, record, facts, status=RunStatus.FAILED, reason=reason)
