"""From a launch to a durable run: parse, probe, pin the tree, plan, store. Then it may start."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from flows import engine, planner, slash
from flows.facts import Facts
from flows.model import Flow
from flows.situation import RoleModel
from protocol.commands import Band
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import PlanId, ProjectId, RunId, StepId, UserId
from protocol.plan import FlowPlan
from protocol.resources import ModelInfo, Project, Run
from protocol.states import RunStatus
from server.access import project_not_found, visible_project
from server.ports import (
    AgentUnavailable,
    KeyConflict,
    Launched,
    NewRun,
    NotStored,
    RunRecord,
)
from server.runs.models import Model, Ready, needed_endpoints
from server.runs.rooms import Rooms
from server.runs.under_way import UnderWay, key_conflict
from server.shielding import to_the_end
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
    """Makes launches durable and begins them. `begin` is told of each new run, its tree and its
    user, and waits for nothing."""

    def __init__(
        self, rooms: Rooms, *, begin: Callable[[RunId, str, UserId], None], under_way: UnderWay
    ) -> None:
        self._rooms = rooms
        self._begin = begin
        self._under_way = under_way
        self._store = rooms.store
        self._catalogue = rooms.catalogue
        self._models = rooms.models

    def models(self, user: UserId) -> list[ModelInfo]:
        """The models that a launch of the user may name."""
        return self._models.open_to(user)

    async def plan(self, user: UserId, request: LaunchRequest) -> Prepared:
        """The plan of a launch, stored so that `plan_id` can launch exactly it. Raises
        ProtocolError."""
        prepared, _ = await self._under_way.wait_for(
            lambda: self._plan(user, request), user=user, key=None, body_hash=request.hash()
        )
        return prepared

    async def _plan(self, user: UserId, request: LaunchRequest) -> Prepared:
        self._under_way.admit(user, new_run=False)
        with self._rooms.trees.keep():
            prepared = await self._prepare(user, request)
            await self._store.save_plan(prepared.plan, prepared.patches)
            return prepared

    async def launch(self, user: UserId, request: LaunchRequest, *, key: str | None) -> Launched:
        """Make the run durable; the same key and body return the run made before, or wait for the
        one that is being made: who began it alone has `created`.

        Raises ProtocolError; nothing is stored then.
        """
        launched, joined = await self._under_way.wait_for(
            lambda: self._launch(user, request, key), user=user, key=key, body_hash=request.hash()
        )
        return Launched(launched.run, created=False) if joined else launched

    async def _launch(self, user: UserId, request: LaunchRequest, key: str | None) -> Launched:
        earlier = await self._earlier(user, key, request)
        if earlier is not None:
            return earlier
        self._under_way.admit(user)
        with self._rooms.trees.keep():
            prepared = await self._prepare(user, request)
            new = self._new_run(user, request, prepared, key=key)
            return await to_the_end(self._commit(new))

    async def rerun(
        self, user: UserId, parent: RunRecord, *, again: list[StepId], key: str | None
    ) -> Launched:
        """A linked run with the parent's plan; its completed steps are reused, except `again`
        and what depends on them. Repeats are as those of a launch."""
        request = LaunchRequest(
            project_id=parent.run.project_id,
            plan_id=parent.plan.plan_id,
            input={"rerun": parent.run.id, "steps": sorted(again)},
        )
        launched, joined = await self._under_way.wait_for(
            lambda: self._rerun(user, parent, again, request, key),
            user=user,
            key=key,
            body_hash=request.hash(),
        )
        return Launched(launched.run, created=False) if joined else launched

    async def _rerun(
        self,
        user: UserId,
        parent: RunRecord,
        again: list[StepId],
        request: LaunchRequest,
        key: str | None,
    ) -> Launched:
        earlier = await self._earlier(user, key, request)
        if earlier is not None:
            return earlier
        _check_rerun(parent, again)
        self._under_way.admit(user)
        facts = engine.reuse(parent.plan, await self._store.facts(parent.run.id), set(again))
        await self._require_models(user, parent.plan, facts)
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
        with self._rooms.trees.keep():
            await self._check_copy(user, parent.plan)
            return await to_the_end(self._commit(new))

    async def _earlier(
        self, user: UserId, key: str | None, request: LaunchRequest
    ) -> Launched | None:
        """What this key made before: a repeat is answered even when nothing new is taken."""
        if key is None:
            return None
        try:
            run = await self._store.launched(user, key, request.hash())
        except KeyConflict as error:
            raise key_conflict() from error
        if run is None:
            return None
        await visible_project(self._store, user, run.project_id)
        return Launched(run, created=False)

    async def _check_copy(self, user: UserId, plan: FlowPlan) -> None:
        """Refuse a plan whose project may not be used any more, or whose copy is gone."""
        project = await visible_project(self._store, user, plan.project_id)
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
        try:
            launched = await self._store.launch(new)
        except KeyConflict as error:
            raise key_conflict() from error
        except NotStored as error:
            # The user has left the project while the launch was being made.
            raise project_not_found() from error
        self._begin(launched.run.id, new.plan.tree.id, new.user_id)
        return launched

    async def _prepare(self, user: UserId, request: LaunchRequest) -> Prepared:
        if request.plan_id is not None:
            return await self._stored_plan(user, request.plan_id)
        project = await self._project(user, request.project_id)
        invocation = self._invocation(request)
        flow = self._catalogue.get(invocation.flow)
        with _no_run_without_agent():
            chosen = await self._models.chosen(user, request.model)
            ready = await self._models.ready(chosen)
        roles = await self._try_roles(user, flow)
        situation = await self._rooms.trees.situation(project, invocation, ready.probe)
        situation = msgspec.structs.replace(
            situation,
            roles={role: _role_model(it) for role, it in roles.items() if isinstance(it, Ready)},
        )
        plan = await asyncio.to_thread(
            planner.plan, flow, invocation, situation, self._catalogue.hashes(flow)
        )
        _require_roles(plan, roles)
        chosen_files = {file.path for file in plan.scope.files}
        patches = {path: text for path, text in situation.diff.items() if path in chosen_files}
        return Prepared(plan, patches)

    async def _try_roles(self, user: UserId, flow: Flow) -> dict[str, Ready | AgentUnavailable]:
        """Try the models of the roles that the flow may seat. Whether one that cannot be used
        matters is known only when the roster is."""
        roles = [step.role for step in flow.steps if step.role is not None]
        models = self._models.of_roles(user, roles)
        async with asyncio.TaskGroup() as group:
            tasks = {role: group.create_task(self._try(model)) for role, model in models.items()}
        return {role: task.result() for role, task in tasks.items()}

    async def _try(self, model: Model) -> Ready | AgentUnavailable:
        try:
            return await self._models.ready(model)
        except AgentUnavailable as error:
            return error

    async def _require_models(self, user: UserId, plan: FlowPlan, facts: Facts) -> None:
        """Every endpoint that the plan still needs must be what it was, and the user's to use."""
        endpoints = needed_endpoints(plan, facts)
        for endpoint in endpoints:
            self._models.check_open(user, endpoint)
        with _no_run_without_agent():
            await self._rooms.agent.check()
            for endpoint in endpoints:
                await self._models.ready_again(endpoint)

    async def _stored_plan(self, user: UserId, plan_id: PlanId) -> Prepared:
        found = await self._store.plan(plan_id)
        open_to_user = found and await self._store.open_project(user, found[0].project_id)
        if found is None or open_to_user is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "plan not found", field="plan_id")
        await self._check_copy(user, found[0])
        prepared = Prepared(*found)
        await self._require_models(user, prepared.plan, engine.initial(prepared.plan))
        return prepared

    async def _project(self, user: UserId, project_id: ProjectId | None) -> Project:
        if project_id is None:
            raise ProtocolError(
                ErrorCode.BAD_ARGUMENTS,
                "project_id is missing",
                field="project_id",
                hint="GET /api/projects lists them",
            )
        return await visible_project(self._store, user, project_id)

    def _invocation(self, request: LaunchRequest) -> slash.Invocation:
        if request.command is not None and request.flow_name is None:
            parsed = slash.parse(request.command, self._catalogue)
            if isinstance(parsed, slash.Builtin):
                raise slash.no_run(parsed, self._catalogue)
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


@contextmanager
def _no_run_without_agent() -> Iterator[None]:
    """Without an agent and an endpoint to trust there is no run: `agent_unavailable`."""
    try:
        yield
    except AgentUnavailable as error:
        raise _unavailable(error) from error


def _unavailable(error: AgentUnavailable) -> ProtocolError:
    return ProtocolError(
        ErrorCode.AGENT_UNAVAILABLE, error.message, field=error.reason, hint=error.hint
    )


def _role_model(ready: Ready) -> RoleModel:
    return RoleModel(endpoint=ready.probe.public, context_tokens=ready.probe.context_tokens)


def _require_roles(plan: FlowPlan, roles: Mapping[str, Ready | AgentUnavailable]) -> None:
    """A seated role whose own model cannot be used is not given another one."""
    for step in plan.steps:
        found = roles.get(step.role or "")
        if isinstance(found, AgentUnavailable):
            raise _unavailable(found) from found


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
