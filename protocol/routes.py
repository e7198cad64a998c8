"""Every route of the server: what it takes, and every way in which it answers.

`openapi.py` has its facts from here and nowhere else. The tests hold the table against the routes
that the server really has, and against every answer that it gives in any test. A new route is one
more `Route` in the table.
"""

from typing import Annotated, Any

from msgspec import Meta

from protocol.checks import CURSOR
from protocol.commands import Detail, LaunchKey
from protocol.errors import ErrorCode
from protocol.frames import (
    FlowRunCaughtUp,
    FlowRunDraining,
    FlowRunLagging,
    FlowRunReset,
    FlowRunSubscribed,
    StoredFrame,
)
from protocol.report import Report
from protocol.resources import Project
from protocol.rest import (
    LIST_LIMIT,
    Alive,
    Cancelled,
    CommandBody,
    Draining,
    Finishing,
    FlowList,
    FramesPage,
    LaunchBody,
    Launched,
    NoSuchRun,
    NotCancelled,
    PlanBody,
    Planned,
    ProjectBody,
    ProjectList,
    Ready,
    RecordingHeader,
    RerunBody,
    RunDetail,
    RunList,
    UnknownFlow,
)
from protocol.route import EVENTS, LINES, MARKDOWN, TEXT, Answer, Parameter, Route, Tag, refused
from protocol.users import (
    Admitted,
    NewToken,
    NewUser,
    ProjectChange,
    SessionBody,
    SessionInfo,
    SessionOpened,
    Ticket,
    TicketBody,
    UserInfo,
    UserList,
)

Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
CursorText = Annotated[str, Meta(pattern=f"^{CURSOR}$", examples=["1:42"])]

_KEY = Parameter(
    "Idempotency-Key",
    "header",
    LaunchKey,
    "The same key with the same body is the same run; with another body it is `key_conflict`.",
)
_AFTER = Parameter("after", "query", CursorText, "Start after this cursor, `gen:seq`.")
_DETAIL = Parameter("detail", "query", Detail, "How much of the log to show.")
STREAM = (
    StoredFrame,
    FlowRunSubscribed,
    FlowRunReset,
    FlowRunCaughtUp,
    FlowRunLagging,
    FlowRunDraining,
)
_STOPPING = refused(503, ErrorCode.BUSY)
"""Of what a server that stops begins no more."""
_PLAN = (
    ErrorCode.NOT_FOUND,
    ErrorCode.BAD_ARGUMENTS,
    ErrorCode.BUSY,
    ErrorCode.AGENT_UNAVAILABLE,
)
_LAUNCH = (*_PLAN, ErrorCode.KEY_CONFLICT)

ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/runs",
        name="launch_run",
        tag=Tag.RUNS,
        summary="Launch a run",
        parameters=(_KEY,),
        body=LaunchBody,
        or_body=CommandBody,
        answers=(
            Answer(201, Launched, "The run is stored, and begins."),
            Answer(200, Launched, "The run that this key and body launched before."),
            Answer(422, UnknownFlow, "There is no flow of that name."),
            _STOPPING,
        ),
        codes=_LAUNCH,
    ),
    Route(
        method="GET",
        path="/api/runs",
        name="list_runs",
        tag=Tag.RUNS,
        summary=f"List runs, the newest first, at most {LIST_LIMIT}",
        parameters=(
            Parameter("project_id", "query", Uuid, "Only those of this project."),
            Parameter("before", "query", Uuid, "Only those that are older than this run."),
        ),
        answers=(
            Answer(200, RunList),
            Answer(404, NoSuchRun, "The run that `before` names is not there, or not yours."),
        ),
    ),
    Route(
        method="GET",
        path="/api/runs/{id}",
        name="get_run",
        tag=Tag.RUNS,
        summary="Show a run with its steps",
        answers=(Answer(200, RunDetail),),
    ),
    Route(
        method="POST",
        path="/api/runs/{id}/cancel",
        name="cancel_run",
        tag=Tag.RUNS,
        summary="Cancel a run",
        answers=(
            Answer(200, Cancelled),
            Answer(409, NotCancelled, "It is being cancelled already, or has ended."),
        ),
    ),
    Route(
        method="POST",
        path="/api/runs/{id}/finish",
        name="finish_run",
        tag=Tag.RUNS,
        summary="End a run early, with a report",
        about="What is queued is skipped, what runs may end, then the report is made.",
        answers=(Answer(200, Finishing),),
        codes=(ErrorCode.ALREADY_TERMINAL,),
    ),
    Route(
        method="POST",
        path="/api/runs/{id}/rerun",
        name="rerun_run",
        tag=Tag.RUNS,
        summary="Make a new, linked run with the same plan",
        parameters=(_KEY,),
        body=RerunBody,
        answers=(
            Answer(201, Launched, "The new run is stored, and begins."),
            Answer(200, Launched, "The run that this key and body made before."),
            _STOPPING,
        ),
        codes=_LAUNCH,
    ),
    Route(
        method="GET",
        path="/api/runs/{id}/report.md",
        name="get_report_markdown",
        tag=Tag.RUNS,
        summary="The report as Markdown",
        answers=(Answer(200, about="The report.", media=MARKDOWN),),
        codes=(ErrorCode.NOT_FOUND,),
    ),
    Route(
        method="GET",
        path="/api/runs/{id}/report.json",
        name="get_report",
        tag=Tag.RUNS,
        summary="The report as an object",
        answers=(Answer(200, Report),),
        codes=(ErrorCode.NOT_FOUND,),
    ),
    Route(
        method="GET",
        path="/api/runs/{id}/events",
        name="follow_run",
        tag=Tag.LOG,
        summary="Follow a run as server-sent events",
        about="The twin of the socket for one run. The `id` of an event is the cursor that a reader"
        " has once it took the event; there is no `event` field. The stream ends after"
        " `flow_run_finished`.",
        parameters=(
            _AFTER,
            _DETAIL,
            Parameter("Last-Event-ID", "header", CursorText, "As `after`, and before it."),
        ),
        answers=(
            Answer(200, about="Events, each a frame.", media=EVENTS, items=STREAM),
            Answer(204, about="The run has ended, and the cursor is its end: stay away."),
            _STOPPING,
        ),
    ),
    Route(
        method="GET",
        path="/api/runs/{id}/frames",
        name="list_frames",
        tag=Tag.LOG,
        summary="One page of a run's stored frames",
        about="Ask on after the last frame until `frames` is empty.",
        parameters=(_AFTER, _DETAIL),
        answers=(Answer(200, FramesPage),),
    ),
    Route(
        method="GET",
        path="/api/runs/{id}/recording",
        name="get_recording",
        tag=Tag.LOG,
        summary="The whole log of a run as one file",
        about="A body that cannot be finished has no end: the connection is cut.",
        parameters=(
            Parameter(
                "live", "query", str, "1: what there is so far, of one that goes on.", checked=False
            ),
        ),
        answers=(
            Answer(
                200,
                about="A header, then so many stored frames, one object a line.",
                media=LINES,
                items=(RecordingHeader, StoredFrame),
            ),
        ),
        codes=(ErrorCode.BUSY, ErrorCode.NOT_FOUND),
    ),
    Route(
        method="POST",
        path="/api/plans",
        name="plan_run",
        tag=Tag.FLOWS,
        summary="Plan a launch without running it",
        about="The plan is stored: a launch with its `plan_id` runs exactly it.",
        body=PlanBody,
        answers=(Answer(200, Planned), _STOPPING),
        codes=(*_PLAN, ErrorCode.UNKNOWN_FLOW),
    ),
    Route(
        method="GET",
        path="/api/flows",
        name="list_flows",
        tag=Tag.FLOWS,
        summary="The catalogue of flows, and the models that you may name",
        answers=(Answer(200, FlowList),),
    ),
    Route(
        method="GET",
        path="/api/projects",
        name="list_projects",
        tag=Tag.PROJECTS,
        summary="List the projects that you are a member of",
        answers=(Answer(200, ProjectList),),
    ),
    Route(
        method="POST",
        path="/api/projects",
        name="add_project",
        tag=Tag.PROJECTS,
        summary="Make a folder of the server's machine a project",
        about="The operator makes one of any folder that the settings allow. Others may name one of"
        " theirs, as it is listed.",
        body=ProjectBody,
        answers=(Answer(200, Project, "The project, which may have been one already."),),
        codes=(ErrorCode.BAD_ARGUMENTS,),
    ),
    Route(
        method="POST",
        path="/api/session",
        name="open_session",
        tag=Tag.SIGN_IN,
        summary="Sign a browser in: the token, for a cookie",
        body=SessionBody,
        answers=(Answer(200, SessionOpened, "The cookie is set."),),
        codes=(ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN, ErrorCode.RATE_LIMITED),
        signed_in=False,
    ),
    Route(
        method="GET",
        path="/api/session",
        name="get_session",
        tag=Tag.SIGN_IN,
        summary="Show who is signed in",
        answers=(Answer(200, SessionInfo),),
    ),
    Route(
        method="DELETE",
        path="/api/session",
        name="end_session",
        tag=Tag.SIGN_IN,
        summary="Sign a browser out",
        about="The session is over wherever its cookie is. A browser that has none is answered the"
        " same.",
        answers=(Answer(204, about="Nobody is signed in by a cookie."),),
        codes=(ErrorCode.FORBIDDEN, ErrorCode.STORE_UNAVAILABLE),
        signed_in=False,
    ),
    Route(
        method="POST",
        path="/api/ws-ticket",
        name="make_ticket",
        tag=Tag.SIGN_IN,
        summary="Make a single-use ticket for a socket",
        about="For your own socket, or by a service account for that of a user.",
        body=TicketBody,
        answers=(Answer(201, Ticket),),
        codes=(ErrorCode.NOT_FOUND, ErrorCode.BAD_ARGUMENTS),
    ),
    Route(
        method="GET",
        path="/api/users",
        name="list_users",
        tag=Tag.USERS,
        summary="List the users, the revoked ones too",
        answers=(Answer(200, UserList),),
    ),
    Route(
        method="POST",
        path="/api/users",
        name="add_user",
        tag=Tag.USERS,
        summary="Let somebody in, with a first token",
        body=NewUser,
        answers=(Answer(201, Admitted, "The one time that the token is shown."),),
        codes=(ErrorCode.BAD_ARGUMENTS, ErrorCode.KEY_CONFLICT),
    ),
    Route(
        method="DELETE",
        path="/api/users/{name}",
        name="revoke_user",
        tag=Tag.USERS,
        summary="End a user, with every token and every visit",
        about="Doing it twice is doing it once.",
        answers=(Answer(200, UserInfo),),
        codes=(ErrorCode.NOT_FOUND,),
    ),
    Route(
        method="POST",
        path="/api/users/{name}/tokens",
        name="add_token",
        tag=Tag.USERS,
        summary="Make a further token of a user",
        body=NewToken,
        answers=(Answer(201, Admitted, "The one time that the token is shown."),),
        codes=(ErrorCode.NOT_FOUND, ErrorCode.BUSY),
    ),
    Route(
        method="DELETE",
        path="/api/users/{name}/tokens/{token}",
        name="revoke_token",
        tag=Tag.USERS,
        summary="End one token, with what it opened",
        about="Doing it twice is doing it once. `token` is its id.",
        answers=(Answer(200, UserInfo),),
        codes=(ErrorCode.NOT_FOUND,),
    ),
    Route(
        method="POST",
        path="/api/users/{name}/projects",
        name="change_projects",
        tag=Tag.USERS,
        summary="Make a user a member of projects, and of others no longer",
        body=ProjectChange,
        answers=(Answer(200, UserInfo),),
        codes=(ErrorCode.NOT_FOUND, ErrorCode.BAD_ARGUMENTS, ErrorCode.BUSY),
    ),
    Route(
        method="GET",
        path="/api/ws",
        name="open_socket",
        tag=Tag.LOG,
        summary="Open the WebSocket: subprotocol `podium.v1`, see /asyncapi.json",
        about="A browser that can send neither header nor cookie says `hello` with a ticket.",
        answers=(
            Answer(101, about="The socket is open."),
            refused(426, ErrorCode.BAD_MESSAGE),
            refused(503, ErrorCode.BUSY),
        ),
        codes=(ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN, ErrorCode.RATE_LIMITED),
        signed_in=False,
    ),
    Route(
        method="GET",
        path="/healthz",
        name="health",
        tag=Tag.SERVER,
        summary="Whether the process is alive",
        answers=(Answer(200, Alive),),
        signed_in=False,
    ),
    Route(
        method="GET",
        path="/readyz",
        name="readiness",
        tag=Tag.SERVER,
        summary="Whether requests are taken, and whether an agent can start",
        answers=(Answer(200, Ready), Answer(503, Draining, "The server stops.")),
        signed_in=False,
    ),
    Route(
        method="GET",
        path="/metrics",
        name="metrics",
        tag=Tag.SERVER,
        summary="Figures for Prometheus, for the operator alone",
        answers=(Answer(200, about="In its text format.", media=TEXT),),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        name="openapi",
        tag=Tag.SERVER,
        summary="This document",
        answers=(Answer(200, dict[str, Any]), Answer(304, about="It is what you have.")),
        signed_in=False,
    ),
    Route(
        method="GET",
        path="/asyncapi.json",
        name="asyncapi",
        tag=Tag.SERVER,
        summary="The AsyncAPI document of the socket and the event stream",
        answers=(Answer(200, dict[str, Any]), Answer(304, about="It is what you have.")),
        signed_in=False,
    ),
)
