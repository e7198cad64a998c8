"""`podium run` and its kin: find or start a server, launch, follow, print the report."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import click
import msgspec
from rich.console import Console

from flows.counted import number_of
from protocol.codec import encode_frame
from protocol.commands import Launch
from protocol.errors import ProtocolError
from protocol.frames import FlowRunFinished, FlowRunReset, FlowRunSubscribed
from protocol.ids import ProjectId, RunId
from protocol.plan import FlowPlan
from protocol.report import Severity
from protocol.resources import Project
from protocol.states import RunStatus
from server.client import Client, Unreachable
from server.commands.keep_serving import keep_serving, where_to_watch
from server.commands.plan_lines import plan_lines, tree_lines
from server.commands.shared import (
    CANCELLED,
    USAGE,
    CommandError,
    ConnectionNews,
    data_flag,
    find_server,
    project_root,
)
from server.commands.succession import LOOK_SECONDS, Succession, succeeding
from server.commands.terminal import (
    FrameLines,
    LiveTable,
    PlainLines,
    Watcher,
    clean,
    clean_line,
)
from server.demo.process import DemoProcess
from server.local import START_SECONDS, ServerFile, own_server, running_server
from server.settings import Settings, default_file

A = TypeVar("A")

EXIT_CODES = {
    RunStatus.COMPLETED: 0,
    RunStatus.FAILED: 1,
    RunStatus.PARTIAL: 3,
    RunStatus.CANCELLED: 130,
}


class RunOptions(NamedTuple):
    project: str
    url: str | None
    as_json: bool
    demo: bool
    key: str | None = None
    fail_on: str | None = None
    demo_if_unconfigured: bool = False
    keep_serving: bool = False
    containment: str | None = None


class Used(NamedTuple):
    """The server that a command uses."""

    client: Client
    place: ServerFile | None = None
    """None for one that was given by its address."""
    own: bool = False
    """Started for this command, and ends with it."""
    succession: Succession | None = None
    """Of a server that another command has started."""

    async def asked(self, question: Callable[[], Awaitable[A]]) -> A:
        """The answer, also when the server is just followed by another one."""
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                return await question()
            except Unreachable:
                gone = self.succession is None or self.succession.over.done()
                if gone or time.monotonic() > until:
                    raise
            await asyncio.sleep(LOOK_SECONDS)


async def run_command(settings: Settings, command: str, options: RunOptions) -> int:
    """Launch a command, follow it to its end, print the report; returns the exit code."""
    async with AsyncExitStack() as stack:
        root = project_root(options.project)
        used = await stack.enter_async_context(_server(settings, options))
        client, place = used.client, used.place
        project_id = await used.asked(lambda: _register(client, root))
        launch = Launch(
            id="launch",
            key=options.key or str(uuid.uuid4()),
            project_id=project_id,
            command=command,
        )
        run_id = await client.launch(launch)
        if not options.as_json and place is not None:
            lasting = options.keep_serving or not used.own
            click.echo(where_to_watch(place, run_id, lasting=lasting), err=True)
        code = await _follow_or_cancel(settings, used, run_id, as_json=options.as_json)
        if not options.as_json:
            click.echo()
            report = await used.asked(lambda: client.text(f"/api/runs/{run_id}/report.md"))
            click.echo(clean(report))
        if severity := options.fail_on:
            reached = await used.asked(lambda: _reaches(client, run_id, severity))
            code = code or int(reached)
        if options.keep_serving and place is not None:
            await client.aclose()
            last = used.succession or used
            await keep_serving(settings.directory, last.place or place, run_id, own=last.own)
        elif used.own and not options.as_json:
            serve = f"podium serve{data_flag(settings)}"
            click.echo(f"kept as run {run_id[:8]}: `{serve}` shows it again", err=True)
        return code


async def plan_command(
    settings: Settings, command: str, *, project: str, url: str | None, as_json: bool, demo: bool
) -> int:
    """Print the plan of a command."""
    options = RunOptions(project=project, url=url, as_json=as_json, demo=demo)
    root = project_root(project)
    async with _server(settings, options) as used:
        body = {"project_id": await _register(used.client, root), "command": command}
        answer = await used.client.post("/api/plans", body)
    if as_json:
        click.echo(msgspec.json.encode(answer))
        return 0
    plan = msgspec.convert(answer["plan"], FlowPlan)
    for line in (*plan_lines(plan), *tree_lines(plan.tree)):
        click.echo(clean_line(line))
    for step in plan.steps:
        files = f" ({number_of(len(step.files), 'file')})" if step.files else ""
        click.echo(clean_line(f"  {step.id:<20} {step.title}{files}"))
    return 0


async def follow(client: Client, run_id: str, *, as_json: bool) -> int:
    """Show a run's frames to its end; returns the exit code of its status."""
    with _watcher(as_json=as_json) as watcher:
        async for event in client.follow(RunId(run_id)):
            if isinstance(event, FlowRunSubscribed | FlowRunReset):
                watcher.note(event)
                if isinstance(event, FlowRunReset) and event.snapshot.status.terminal:
                    return EXIT_CODES[event.snapshot.status]
                continue
            watcher.show(event)
            if isinstance(event, FlowRunFinished):
                return EXIT_CODES[event.status]
    raise AssertionError("a run is followed to its end")


def _watcher(*, as_json: bool) -> Watcher:
    if as_json:
        return FrameLines(encode_frame, click.echo)
    console = Console(stderr=True)
    return LiveTable(console) if console.is_terminal else PlainLines(console)


async def _follow_or_cancel(settings: Settings, used: Used, run_id: RunId, *, as_json: bool) -> int:
    """Ctrl-C cancels the run and still waits for its end and its partial report. A second one, or
    a server that is gone, ends the wait: raises CommandError, or StartFailed when no server can
    follow the one that ended."""
    client = used.client
    loop = asyncio.get_running_loop()
    following = asyncio.create_task(follow(client, run_id, as_json=as_json))
    cancelling: list[asyncio.Task[None]] = []

    def interrupted() -> None:
        if cancelling:
            following.cancel()
        else:
            cancelling.append(asyncio.create_task(_cancel(client, run_id, following)))

    loop.add_signal_handler(signal.SIGINT, interrupted)
    over = None if used.succession is None else used.succession.over
    try:
        needed = [following] if over is None else [following, over]
        await asyncio.wait(needed, return_when=asyncio.FIRST_COMPLETED)
        if over is not None and not following.done():
            over.result()
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for task in (following, *cancelling):
            task.cancel()
    if following.cancelled():
        hint = f"it may go on; `podium watch{data_flag(settings)} {run_id}` follows it"
        raise CommandError(f"no longer waiting for run {run_id}", hint=hint, code=CANCELLED)
    return following.result()


async def _cancel(client: Client, run_id: RunId, following: asyncio.Task[int]) -> None:
    click.echo("stopping … (Ctrl-C again: do not wait for the end)", err=True)
    try:
        await client.post(f"/api/runs/{run_id}/cancel")
    except ProtocolError:
        pass  # it has ended by itself
    except Unreachable:
        following.cancel()


async def _reaches(client: Client, run_id: RunId, severity: str) -> bool:
    """Whether the report has findings of this severity or above."""
    report = await client.get(f"/api/runs/{run_id}/report.json")
    order = [level.value for level in Severity]
    wanted = order[: order.index(severity) + 1]
    return any(report["counts"].get(level, 0) for level in wanted)


async def _register(client: Client, root: Path) -> ProjectId:
    project = msgspec.convert(await client.post("/api/projects", {"path": str(root)}), Project)
    return project.id


@asynccontextmanager
async def _server(settings: Settings, options: RunOptions) -> AsyncIterator[Used]:
    """The server to use: the given one, the one that runs, or one started for this command."""
    async with AsyncExitStack() as stack:
        place = await running_server(settings.directory) if options.url is None else None
        _require_containment(settings, options, place)
        _require_own_model(options, place)
        if options.url is not None:
            client = await find_server(settings, options.url)
            yield Used(await stack.enter_async_context(client))
            return
        own, succession = False, None

        async def environment() -> Mapping[str, str]:
            return await _environment(settings, options, stack)

        if place is None:
            starting = own_server(settings.directory, await environment())
            started = await stack.enter_async_context(starting)
            place, own = started.place, started.own
            if not own:
                _require_containment(settings, options, place)
                _require_own_model(options, place)
        if place.of_command and not own:
            succession = await stack.enter_async_context(
                succeeding(settings.directory, place, environment)
            )
        client = Client(place.url, place.token, on_state=ConnectionNews())
        yield Used(await stack.enter_async_context(client), place, own, succession)


def _require_containment(settings: Settings, options: RunOptions, place: ServerFile | None) -> None:
    """Refuse to use a server that contains its agents in another way than this command was told."""
    if options.url is not None:
        told, known = options.containment, ""
    else:
        here = settings.source("containment") not in (str(default_file()), "the defaults")
        told = settings.containment if here and place is not None else None
        known = place.containment if place is not None else ""
    if told is not None and told != known:
        raise CommandError(
            f"containment is to be `{told}`, and the server that runs already has its own",
            hint=f"stop it, and start it with `podium serve --containment {told}`",
            code=USAGE,
        )


def _require_own_model(options: RunOptions, place: ServerFile | None) -> None:
    """Refuse the demo model of a server that has models of its own: it would be ignored, and the
    project would be sent to another one."""
    if options.demo and (options.url is not None or place is not None):
        raise CommandError(
            "--demo starts a server of its own, and one runs already, with its own model",
            hint="leave --demo out, stop that server, or choose another --data",
            code=USAGE,
        )


async def _environment(
    settings: Settings, options: RunOptions, stack: AsyncExitStack
) -> Mapping[str, str]:
    """This process's environment with what the flags say, and with the demo model as the endpoint
    where it was asked for."""
    environment = dict(os.environ)
    if options.containment is not None:
        environment["PODIUM_CONTAINMENT"] = options.containment
    if options.demo or (options.demo_if_unconfigured and not settings.endpoints):
        demo = await stack.enter_async_context(DemoProcess())
        why = "" if settings.endpoints else "no model endpoint: "
        click.echo(f"{why}using the scripted demo model, not a review", err=True)
        environment |= {
            "OPENAI_BASE_URL": demo.base_url,
            "OPENAI_MODEL": "podium-demo",
            "OPENAI_API_KEY": "demo",
        }
    return environment
