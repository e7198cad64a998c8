"""The REST routes: decode, check, call, encode. Bodies and statuses are wire.md §6's."""

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
from protocol.rest import (
    Cancelled,
    Finishing,
    FlowList,
    InvalidRequest,
    Launched,
    NotCancelled,
    PlanBody,
    Planned,
    ProjectBody,
    ProjectList,
    RerunBody,
    RunDetail,
    RunList,
    SessionBody,
    UnknownFlow,
    parse_body,
    parse_launch,
    parse_list_query,
)
from server.access import visible_run
from server.http.answers import invalid, json, refusal
from server.http.asking import Handler, run_of, signed_in
from server.http.sign_in import COOKIE, LOCAL_USER, SESSION_SECONDS, Refused, SignIn
from server.http.tickets import TICKET_SECONDS, Tickets
from server.ports import RunRecord, Store, Trees
from server.runs.launch import Launcher, LaunchRequest
from server.runs.runner import Runner

MAX_BODY = 1024 * 1024
LIST_LIMIT = 100
KEY_LIMIT = 200


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
        tickets: Tickets,
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._runner = runner
        self._trees = trees
        self._catalogue = catalogue
        self._sign_in = sign_in
        self._tickets = tickets

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Handler]] = [
            ("POST", "/api/runs", self.launch),
            ("GET", "/api/runs", self.list_runs),
            ("GET", "/api/runs/{id}", self.get_run),
            ("POST", "/api/runs/{id}/cancel", self.cancel),
            ("POST", "/api/runs/{id}/finish", self.finish),
            ("POST", "/api/runs/{id}/rerun", self.rerun),
            ("GET", "/api/runs/{id}/report.md", self.report_markdown),
            ("GET", "/api/runs/{id}/report.json", self.report_json),
            ("POST", "/api/plans", self.plan),
            ("GET", "/api/flows", self.flows),
            ("GET", "/api/projects", self.projects),
            ("POST", "/api/projects", self.add_project),
            ("POST", "/api/ws-ticket", self.ticket),
        ]
        routes = [
            Route(path, signed_in(self._sign_in, handler), methods=[method])
            for method, path, handler in table
        ]
        return [*routes, Route("/api/session", self._open_session, methods=["POST"])]

    # --- runs -----------------------------------------------------------------------------------

    async def launch(self, request: Request, user: UserId) -> Response:
        body = parse_launch(await _json_body(request))
        launch = LaunchRequest(
            project_id=body.project_id,
            flow_name=body.flow_name,
            band=body.band,
            input=body.input,
            model=body.model or None,
        )
        try:
            launched = await self._launcher.launch(user, launch, key=_key(request))
        except ProtocolError as error:
            if error.code is ErrorCode.UNKNOWN_FLOW:
                return self._unknown_flow(error)
            raise
        return json(Launched(launched.run.id), 201 if launched.created else 200)

    async def list_runs(self, request: Request, user: UserId) -> Response:
        query = parse_list_query(request.query_params)
        if query.before is not None:
            await visible_run(self._store, user, query.before)
        runs = await self._store.runs(
            project_id=query.project_id, before=query.before, limit=LIST_LIMIT
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
        body = parse_body(await _json_body(request), RerunBody)
        launched = await self._launcher.rerun(
            user, record, again=body.steps, key=_key(request) or body.key
        )
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
        body = parse_body(await _json_body(request), PlanBody)
        launch = msgspec.convert(body, LaunchRequest, from_attributes=True)
        return json(Planned((await self._launcher.plan(user, launch)).plan))

    async def flows(self, request: Request, user: UserId) -> Response:
        models = self._launcher.models(user)
        return json(FlowList(self._catalogue.infos(), models))

    async def projects(self, request: Request, user: UserId) -> Response:
        return json(ProjectList(await self._store.projects()))

    async def add_project(self, request: Request, user: UserId) -> Response:
        body = parse_body(await _json_body(request), ProjectBody)
        path = await self._trees.check(Path(body.path))
        return json(await self._store.add_project(path, path.name or str(path)))

    # --- signing in -----------------------------------------------------------------------------

    async def ticket(self, request: Request, user: UserId) -> Response:
        ticket = self._tickets.issue(user)
        return json({"ticket": ticket, "expires_in_seconds": TICKET_SECONDS}, 201)

    async def _open_session(self, request: Request) -> Response:
        try:
            self._sign_in.check_place(request.headers)
            body = parse_body(await _json_body(request), SessionBody)
            value = self._sign_in.open_session(body.token)
        except InvalidRequest as error:
            return invalid(error)
        except ProtocolError as error:
            return refusal(error)
        response = json({"user_id": LOCAL_USER})
        response.set_cookie(
            COOKIE,
            value,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    def _unknown_flow(self, error: ProtocolError) -> Response:
        known = sorted(info.name for info in self._catalogue.infos())
        return json(UnknownFlow(message=error.message, known_flows=known), 422)


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= KEY_LIMIT:
        raise ProtocolError(
            ErrorCode.BAD_ARGUMENTS,
            f"the key has {len(key)} characters; at most {KEY_LIMIT} are taken",
            field="Idempotency-Key",
        )
    return key


async def _json_body(request: Request) -> bytes:
    """The body, at most 1 MiB, of a request that says it is JSON."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind.lower() != "application/json":
        raise Refused(
            415,
            ErrorCode.BAD_MESSAGE,
            f"the body is `{kind[:100]}`",
            hint="send JSON with Content-Type: application/json",
        )
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise ProtocolError(
                ErrorCode.TOO_LARGE, f"the body is larger than {MAX_BODY} bytes", field="body"
            )
        chunks.append(chunk)
    return b"".join(chunks) or b"{}"
