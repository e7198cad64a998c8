"""The REST routes: decode, check, call, encode. Bodies and statuses are wire.md §6's."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flows.registry import Catalogue
from flows.report import markdown
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import UserId
from protocol.report import Report
from protocol.resources import Project
from protocol.rest import (
    LIST_LIMIT,
    Cancelled,
    CommandBody,
    Finishing,
    FlowList,
    LaunchBody,
    Launched,
    NotCancelled,
    PlanBody,
    Planned,
    ProjectBody,
    ProjectList,
    RerunBody,
    RunDetail,
    RunList,
    UnknownFlow,
    parse_body,
    parse_launch,
    parse_list_query,
)
from protocol.users import UserKind
from server.access import visible_run
from server.http.answers import json
from server.http.asking import Handler, concerns, guest_of, run_of, signed_in
from server.http.bodies import json_body
from server.http.sign_in import SignIn
from server.ports import RunRecord, Store, Trees
from server.runs.launch import Launcher, LaunchRequest
from server.runs.runner import Runner
from server.users.audit import Deed

KEY_LIMIT = 200
MAX_NAMED, MAX_PATH = 20, 1_000
"""Projects in a hint, and characters of a path that is not one."""


class Rest:
    """The routes over the rooms they need."""

    def __init__(
        self,
        *,
        store: Store,
        launcher: Launcher,
        runner: Runner,
        trees: Trees,
        catalogue: Catalogue,
        sign_in: SignIn,
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._runner = runner
        self._trees = trees
        self._catalogue = catalogue
        self._sign_in = sign_in

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Handler, Deed | None]] = [
            ("POST", "/api/runs", self.launch, Deed.LAUNCH),
            ("GET", "/api/runs", self.list_runs, None),
            ("GET", "/api/runs/{id}", self.get_run, Deed.VIEW),
            ("POST", "/api/runs/{id}/cancel", self.cancel, Deed.CANCEL),
            ("POST", "/api/runs/{id}/finish", self.finish, Deed.FINISH),
            ("POST", "/api/runs/{id}/rerun", self.rerun, Deed.RERUN),
            ("GET", "/api/runs/{id}/report.md", self.report_markdown, Deed.EXPORT),
            ("GET", "/api/runs/{id}/report.json", self.report_json, Deed.EXPORT),
            ("POST", "/api/plans", self.plan, None),
            ("GET", "/api/flows", self.flows, None),
            ("GET", "/api/projects", self.projects, None),
            ("POST", "/api/projects", self.add_project, Deed.PROJECT_ADDED),
        ]
        return [
            Route(path, signed_in(self._sign_in, handler, deed), methods=[method])
            for method, path, handler, deed in table
        ]

    # --- runs -----------------------------------------------------------------------------------

    async def launch(self, request: Request, user: UserId) -> Response:
        body = parse_launch(await json_body(request))
        launch = _request_of(body)
        try:
            launched = await self._launcher.launch(user, launch, key=_key(request))
        except ProtocolError as error:
            if error.code is ErrorCode.UNKNOWN_FLOW:
                return self._unknown_flow(error)
            raise
        concerns(request, run_id=launched.run.id)
        return json(Launched(launched.run.id), 201 if launched.created else 200)

    async def list_runs(self, request: Request, user: UserId) -> Response:
        query = parse_list_query(request.query_params)
        if query.before is not None:
            await visible_run(self._store, user, query.before)
        runs = await self._store.runs(
            user, project_id=query.project_id, before=query.before, limit=LIST_LIMIT
        )
        return json(RunList(runs))

    async def get_run(self, request: Request, user: UserId) -> Response:
        record = await self._run_of(request, user)
        return json(RunDetail(record.run, await self._store.steps(record.run.id)))

    async def cancel(self, request: Request, user: UserId) -> Response:
        record = await self._run_of(request, user)
        status = record.run.status
        if status.terminal or status.value == "cancelling":
            return json(NotCancelled(f"cannot cancel run in status '{status.value}'"), 409)
        if await self._runner.cancel(record) == "already_terminal":
            return json(NotCancelled("run is no longer running"), 409)
        return json(Cancelled())

    async def finish(self, request: Request, user: UserId) -> Response:
        await self._runner.finish(await self._run_of(request, user))
        return json(Finishing())

    async def rerun(self, request: Request, user: UserId) -> Response:
        record = await self._run_of(request, user)
        body = parse_body(await json_body(request), RerunBody)
        launched = await self._launcher.rerun(
            user, record, again=body.steps, key=_key(request) or body.key
        )
        concerns(request, run_id=launched.run.id)
        return json(Launched(launched.run.id), 201 if launched.created else 200)

    async def report_markdown(self, request: Request, user: UserId) -> Response:
        report = msgspec.json.decode(await self._report(request, user), type=Report)
        return PlainTextResponse(markdown.render(report), media_type="text/markdown")

    async def report_json(self, request: Request, user: UserId) -> Response:
        return Response(await self._report(request, user), media_type="application/json")

    async def _report(self, request: Request, user: UserId) -> bytes:
        record = await self._run_of(request, user)
        report = await self._store.report(record.run.id)
        if report is None:
            raise ProtocolError(
                ErrorCode.NOT_FOUND, "the run has no report yet", hint="it comes with the run's end"
            )
        return report

    async def _run_of(self, request: Request, user: UserId) -> RunRecord:
        return await run_of(self._store, request, user)

    # --- plans, flows, projects -----------------------------------------------------------------

    async def plan(self, request: Request, user: UserId) -> Response:
        body = parse_body(await json_body(request), PlanBody)
        launch = msgspec.convert(body, LaunchRequest, from_attributes=True)
        return json(Planned((await self._launcher.plan(user, launch)).plan))

    async def flows(self, request: Request, user: UserId) -> Response:
        models = self._launcher.models(user)
        return json(FlowList(self._catalogue.infos(), models))

    async def projects(self, request: Request, user: UserId) -> Response:
        return json(ProjectList(await self._store.projects(user)))

    async def add_project(self, request: Request, user: UserId) -> Response:
        """The operator makes a path a project. Everybody else is answered with a project that is
        theirs already; nothing is looked for on the disk then, which would tell what is there."""
        body = parse_body(await json_body(request), ProjectBody)
        own = await self._store.projects(user)
        for project in own:
            if project.path == body.path:
                return json(project)
        if guest_of(request).kind is not UserKind.OPERATOR:
            raise _no_member(body.path, own)
        path = await self._trees.check(Path(body.path))
        project = await self._store.add_project(path, path.name or str(path))
        concerns(request, project_id=project.id)
        return json(project)

    def _unknown_flow(self, error: ProtocolError) -> Response:
        known = sorted(info.name for info in self._catalogue.infos())
        return json(UnknownFlow(message=error.message, known_flows=known), 422)


def _request_of(body: LaunchBody | CommandBody) -> LaunchRequest:
    if isinstance(body, CommandBody):
        return LaunchRequest(
            project_id=body.project_id, command=body.command, model=body.model or None
        )
    return LaunchRequest(
        project_id=body.project_id,
        flow_name=body.flow_name,
        band=body.band,
        input=body.input,
        model=body.model or None,
    )


def _no_member(path: str, own: Sequence[Project]) -> ProtocolError:
    """Says the same whether the path is somebody's project, or nobody's, or not there at all."""
    named = [project.path for project in own[:MAX_NAMED]]
    if len(own) > MAX_NAMED:
        named.append(f"{len(own) - MAX_NAMED} more")
    yours = f"yours: {', '.join(named)}" if named else "no project is yours yet"
    return ProtocolError(
        ErrorCode.FORBIDDEN,
        f"you are no member of {path[:MAX_PATH]}",
        field="path",
        hint=f"{yours}; the operator lets you into others",
    )


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= KEY_LIMIT:
        raise ProtocolError(
            ErrorCode.BAD_ARGUMENTS,
            f"the key has {len(key)} characters; at most {KEY_LIMIT} are taken",
            field="Idempotency-Key",
        )
    return key
