"""From a launch to a durable run: parse, probe, pin the tree, plan, store. Then it may start."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from flows import engine, planner, slash
from protocol.commands import Band
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import PlanId, ProjectId, RunId, StepId, UserId
from protocol.plan import FlowPlan
from protocol.resources import Project, Run
from protocol.states import RunStatus
from server.ports import AgentUnavailable, KeyConflict, Launched, NewRun, Probe, RunRecord
from server.runs.rooms import Rooms, to_the_end
from server.world import rfc3339


class LaunchRequest(Struct, frozen=True, kw_only=True):
    """What a client asks for, whichever way it came: a command, a flow with inputs, or a plan."""

    project_id: ProjectId | None = None
    command: str | None = None
    flow_name: str | None = None
    band: Band | None = None
    input: Mapping[str, Any] | None = None
    model: str | None = None
    plan_id: PlanId | None = None

    def hash(self) -> str:
        """Of the body: the same key with another hash is a conflict."""
        encoder = msgspec.json.Encoder(order="deterministic")
        return hashlib.sha256(encoder.encode(self)).hexdigest()


class Prepared(NamedTuple):
    plan: FlowPlan
    patches: Mapping[str, str]


class Launcher:
    """Makes launches durable and begins them. `begin` is told of each new run and its tree, and
    waits for nothing."""

    def __init__(self, rooms: Rooms, *, begin: Callable[[RunId, str], None]) -> None:
        self._rooms = rooms
        self._begin = begin
        self._store = rooms.store
        self._catalogue = rooms.catalogue

    async def plan(self, request: LaunchRequest) -> Prepared:
        """The plan of a launch, stored so that `plan_id` can launch exactly it."""
        with self._rooms.trees.keep():
            prepared = await self._prepare(request)
            await self._store.save_plan(prepared.plan, prepared.patches)
            return prepared

    async def launch(self, user: UserId, request: LaunchRequest, *, key: str | None) -> Launched:
        """Make the run durable; the same key and body return the run made before.

        Raises ProtocolError; nothing is stored then.
        """
        try:
            if key is not None:
                earlier = await self._store.launched(user, key, request.hash())
                if earlier is not None:
                    return Launched(earlier, created=False)
            with self._rooms.trees.keep():
                prepared = await self._prepare(request)
                new = self._new_run(user, request, prepared, key=key)
                return await to_the_end(self._commit(new))
        except KeyConflict as error:
            raise _key_conflict() from error

    async def rerun(
        self, user: UserId, parent: RunRecord, *, again: list[StepId], key: str | None
    ) -> Launched:
        """A linked run with the parent's plan; its completed steps are reused, except `again`
        and what depends on them."""
        _check_rerun(parent, again)
        await self.endpoint()
        facts = engine.reuse(parent.plan, await self._store.facts(parent.run.id), set(again))
        request = LaunchRequest(
            project_id=parent.run.project_id,
            plan_id=parent.plan.plan_id,
            input={"rerun": parent.run.id, "steps": sorted(again)},
        )
        run = self._run(parent.plan, parent.run.input, parent.run.model)
        new = NewRun(
            run=run,
            user_id=user,
            key=key,
            body_hash=request.hash(),
            command=parent.command,
            plan=parent.plan,
            patches=await self._store.patches(parent.run.id),
            facts=facts,
            parent_run_id=parent.run.id,
        )
        try:
            with self._rooms.trees.keep():
                await self._check_copy(parent.plan)
                return await to_the_end(self._commit(new))
        except KeyConflict as error:
            raise _key_conflict() from error

    async def _check_copy(self, plan: FlowPlan) -> None:
        """Refuse a plan whose project may not be used any more, or whose copy is gone."""
        project = await self._project(plan.project_id)
        await self._rooms.trees.check(Path(project.path))
        if not await self._rooms.trees.exists(plan.tree.id):
            raise ProtocolError(
                ErrorCode.NOT_FOUND,
                "the pinned copy of this plan is gone",
                field="plan_id",
                hint="launch the command again: it pins the tree as it is now",
            )

    async def _commit(self, new: NewRun) -> Launched:
        """Store and begin: a client that leaves in between leaves no run that nobody conducts."""
        launched = await self._store.launch(new)
        self._begin(launched.run.id, new.plan.tree.id)
        return launched

    async def endpoint(self) -> Probe:
        """Check that there is an agent and an endpoint to trust; raises `agent_unavailable`."""
        try:
            _, probe = await self._rooms.probe()
            return probe
        except AgentUnavailable as error:
            raise ProtocolError(
                ErrorCode.AGENT_UNAVAILABLE, error.message, field=error.reason, hint=error.hint
            ) from error

    async def _prepare(self, request: LaunchRequest) -> Prepared:
        if request.plan_id is not None:
            return await self._stored_plan(request.plan_id)
        project = await self._project(request.project_id)
        invocation = self._invocation(request)
        probe = await self.endpoint()
        if request.model is not None and request.model != probe.public.model:
            raise ProtocolError(
                ErrorCode.BAD_ARGUMENTS,
                f"the model `{request.model}` is not permitted here",
                field="model",
                hint=f"the endpoint is set up with `{probe.public.model}`",
            )
        situation = await self._rooms.trees.situation(project, invocation, probe)
        flow = self._catalogue.get(invocation.flow)
        plan = await asyncio.to_thread(
            planner.plan, flow, invocation, situation, self._catalogue.hashes(flow)
        )
        chosen = {file.path for file in plan.scope.files}
        patches = {path: text for path, text in situation.diff.items() if path in chosen}
        return Prepared(plan, patches)

    async def _stored_plan(self, plan_id: PlanId) -> Prepared:
        found = await self._store.plan(plan_id)
        if found is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "plan not found", field="plan_id")
        await self._check_copy(found[0])
        await self.endpoint()
        return Prepared(*found)

    async def _project(self, project_id: ProjectId | None) -> Project:
        if project_id is None:
            raise ProtocolError(
                ErrorCode.BAD_ARGUMENTS,
                "project_id is missing",
                field="project_id",
                hint="GET /api/projects lists them",
            )
        project = await self._store.project(project_id)
        if project is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "project not found", field="project_id")
        return project

    def _invocation(self, request: LaunchRequest) -> slash.Invocation:
        if request.command is not None and request.flow_name is None:
            parsed = slash.parse(request.command, self._catalogue)
            if isinstance(parsed, slash.Builtin):
                raise ProtocolError(
                    ErrorCode.BAD_ARGUMENTS, f"/{parsed.name} starts no run", field="command"
                )
            return parsed
        if request.flow_name is None or request.command is not None:
            raise ProtocolError(
                ErrorCode.BAD_ARGUMENTS,
                "give either a command, or a flow_name with its input, or a plan_id",
                field="command",
            )
        flow = self._catalogue.get(request.flow_name)
        return slash.from_fields(flow, request.band, dict(request.input or {}))

    def _new_run(
        self, user: UserId, request: LaunchRequest, prepared: Prepared, *, key: str | None
    ) -> NewRun:
        plan = prepared.plan
        given = dict(request.input) if request.input is not None else {}
        given.setdefault("question", request.command or plan.command)
        return NewRun(
            run=self._run(plan, given, request.model),
            user_id=user,
            key=key,
            body_hash=request.hash(),
            command=request.command or plan.command,
            plan=plan,
            patches=prepared.patches,
            facts=engine.initial(plan),
        )

    def _run(self, plan: FlowPlan, given: dict[str, Any], model: str | None) -> Run:
        now = rfc3339(self._rooms.clock.now())
        return Run(
            id=RunId(self._rooms.ids.uuid()),
            project_id=plan.project_id,
            flow_name=plan.flow,
            band=plan.band.name,
            model=model or plan.endpoint.model,
            status=RunStatus.QUEUED,
            input=given,
            report=None,
            error=None,
            created_at=now,
            updated_at=now,
        )


def _check_rerun(parent: RunRecord, again: list[StepId]) -> None:
    if not parent.run.status.terminal:
        raise ProtocolError(
            ErrorCode.BUSY, "the run has not ended", hint="cancel or finish it, then rerun"
        )
    unknown = set(again) - {step.id for step in parent.plan.steps}
    if unknown:
        raise ProtocolError(
            ErrorCode.BAD_ARGUMENTS, f"no step `{min(unknown)}` in the plan", field="steps"
        )


def _key_conflict() -> ProtocolError:
    return ProtocolError(
        ErrorCode.KEY_CONFLICT,
        "this key was used for another launch",
        field="key",
        hint="use a new key for a new launch",
    )
