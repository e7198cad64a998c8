"""The command line: serve, run, watch and steer flows, and look after the installation."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from flows.counted import number_of
from flows.report.meta import read_only_of
from protocol.errors import ProtocolError
from protocol.report import Report
from server import __version__
from server.commands.audit import audit
from server.commands.shared import (
    USAGE,
    CommandError,
    OneText,
    asynchronous,
    command_error,
    connected,
    containment_option,
    data_option,
    demo_option,
    json_option,
    loaded,
    project_option,
    url_option,
)
from server.commands.terminal import clean, clean_line
from server.commands.user import user
from server.settings import SettingsError, load

FORMS = ("json-schema", "openapi", "asyncapi", "typescript")
SEVERITIES = ("critical", "warning", "suggestion")

EPILOG = """\b
Exit codes: 0 completed, 1 failed (or findings reach --fail-on), 2 wrong usage,
3 partial report, 4 no trustworthy agent or endpoint, 130 cancelled."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(__version__, prog_name="podium")
def main() -> None:
    """Conduct read-only multi-agent flows on a local model, and watch them live.

    \b
    First time:      podium setup
    Review a change: podium run "/code-review small"
    In a browser:    podium serve --project .
    """
    if sys.platform == "win32":
        raise CommandError("podium runs on Linux and macOS; on Windows, use it in WSL2", code=USAGE)


@main.command(short_help="Serve the page, the socket and REST until Ctrl-C.")
@click.option("--host", help="Address to listen on [127.0.0.1].")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one [8765].")
@data_option
@containment_option
@click.option("--project", "projects", metavar="PATH", multiple=True, help="Register a project.")
@click.option("--with-parent", is_flag=True, hidden=True)
@asynchronous
async def serve(
    host: str | None,
    port: int | None,
    data: str | None,
    containment: str | None,
    projects: tuple[str, ...],
    *,
    with_parent: bool,
) -> int:
    """Serve the socket, the REST routes and the page until Ctrl-C or SIGTERM.

    DIR holds all that is ever written; each PATH becomes a project of the local user. The endpoint
    comes from OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY, or from the settings file.
    """
    from server.serve import serve as serve_until_stopped

    chosen = loaded(host=host, port=port, data=data, containment=containment)
    return await serve_until_stopped(chosen, projects=projects, with_parent=with_parent)


@main.command(cls=OneText, short_help="Run a flow, such as /code-review, and print its report.")
@click.argument("command")
@project_option
@url_option
@data_option
@json_option("Frames as JSON lines")
@containment_option
@click.option("--key", help="Idempotency key: the same key is the same run.")
@click.option("--fail-on", type=click.Choice(SEVERITIES), help="Exit 1 when a finding reaches it.")
@demo_option
@click.option("--demo-if-unconfigured", is_flag=True, help="The same, when no endpoint is set.")
@click.option("--keep-serving", is_flag=True, help="Serve the page after the report, until Ctrl-C.")
@asynchronous
async def run(command: str, **options: Any) -> int:
    """Run COMMAND, such as "/code-review small", and print its report.

    \b
    podium run "/code-review"
    podium run '/code-review medium --base main src "error handling"'
    podium run '/code-review --only security,test --exclude docs src'
    podium run '/issue-triage "Login fails with a 500 since Monday"'

    A band is small, medium or large. Every flow takes --only ROLE, --skip ROLE and --exclude PATH;
    `podium flows NAME` shows its inputs and its roles.

    It uses the server that runs on this machine, or starts one for this run.
    """
    from server.commands.running import RunOptions, run_command

    chosen = loaded(data=options.pop("data"), containment=options["containment"])
    return await run_command(chosen, command, RunOptions(**options))


@main.command()
@click.argument("run_id")
@url_option
@data_option
@json_option("Frames as JSON lines")
@asynchronous
async def watch(run_id: str, url: str | None, data: str | None, *, as_json: bool) -> int:
    """Follow RUN_ID from its first frame to its end."""
    from server.commands.run_ids import full_id
    from server.commands.running import follow

    async with await connected(url, data) as client:
        return await follow(client, await full_id(client, run_id), as_json=as_json)


@main.command(short_help="Stop a run; its report says what was not covered.")
@click.argument("run_id")
@url_option
@data_option
@asynchronous
async def cancel(run_id: str, url: str | None, data: str | None) -> None:
    """Stop RUN_ID: its agents are killed, and a partial report says what was not covered."""
    from server.commands.run_ids import full_id

    async with await connected(url, data) as client:
        await client.post(f"/api/runs/{await full_id(client, run_id)}/cancel")
    click.echo("cancelling")


@main.command(short_help="End a run early, with a report.")
@click.argument("run_id")
@url_option
@data_option
@asynchronous
async def finish(run_id: str, url: str | None, data: str | None) -> None:
    """End RUN_ID early with a report: what is queued is skipped, what runs may end."""
    from server.commands.run_ids import full_id

    async with await connected(url, data) as client:
        await client.post(f"/api/runs/{await full_id(client, run_id)}/finish")
    click.echo("finishing")


@main.command(short_help="Print the report of a run.")
@click.argument("run_id")
@click.option("--format", "form", type=click.Choice(["md", "json"]), default="md")
@url_option
@data_option
@asynchronous
async def report(run_id: str, form: str, url: str | None, data: str | None) -> None:
    """Print the report of RUN_ID; on standard error, what its receipts prove."""
    from server.commands.run_ids import full_id

    async with await connected(url, data) as client:
        run = f"/api/runs/{await full_id(client, run_id)}"
        click.echo(clean(await client.text(f"{run}/report.{form}")))
        found = msgspec.convert(await client.get(f"{run}/report.json"), Report)
    told = read_only_of(found)
    if told is not None:
        click.echo(clean_line(told.line), err=True)


@main.command(short_help="Save the whole log of a run as one file.")
@click.argument("run_id")
@click.option("--output", metavar="FILE", help="Where to save it [podium-RUN_ID.ndjson].")
@click.option("--live", is_flag=True, help="What there is so far, of a run that has not ended.")
@click.option("--force", is_flag=True, help="Write over FILE if it is there.")
@url_option
@data_option
@asynchronous
async def recording(
    run_id: str, output: str | None, url: str | None, data: str | None, *, live: bool, force: bool
) -> None:
    """Save the whole log of RUN_ID as one file: a header line, then every frame as it was sent."""
    from server.commands.run_ids import full_id
    from server.commands.saving import save_recording

    async with await connected(url, data) as client:
        found = await full_id(client, run_id)
        path = Path(output or f"podium-{found}.ndjson")
        frames = await save_recording(client, found, path, live=live, force=force)
    click.echo(f"{number_of(frames, 'frame')} in {path}")


@main.command()
@url_option
@data_option
@json_option("Runs as JSON lines")
@asynchronous
async def runs(url: str | None, data: str | None, *, as_json: bool) -> None:
    """List the newest runs."""
    async with await connected(url, data) as client:
        found = (await client.get("/api/runs"))["runs"]
    if not found:
        click.echo('no runs yet; `podium run "/code-review"` starts one', err=True)
    for row in found:
        if as_json:
            click.echo(msgspec.json.encode(row))
        else:
            headline = (row["report"] or {}).get("headline", row["error"] or "")
            click.echo(
                f"{row['id']}  {row['created_at'][:19]}  {row['status']:<10} "
                f"/{row['flow_name']} {row['band']}  {clean_line(headline)}"
            )


@main.command()
@click.argument("name", required=False)
@json_option("Flows as JSON lines")
def flows(name: str | None, *, as_json: bool) -> None:
    """List the flows, or explain one."""
    from flows import registry
    from server.commands.showing import print_flows

    try:
        print_flows(registry.load(), name, as_json=as_json)
    except ProtocolError as error:
        raise command_error(error) from error


@main.command(cls=OneText, short_help="Show what a run would do and read, without running it.")
@click.argument("command")
@project_option
@url_option
@data_option
@json_option("The plan as JSON")
@demo_option
@asynchronous
async def plan(command: str, **options: Any) -> int:
    """Show the plan of COMMAND without running it: scope, agents, and who is left out and why."""
    from server.commands.running import plan_command

    chosen = loaded(data=options.pop("data"))
    return await plan_command(chosen, command, **options)


@main.command(short_help="Install qwen, find a local model, write the settings.")
@click.option("--url", "base_url", help="The endpoint's base URL; default: look for local ones.")
@click.option("--model", default="", help="The model to use; default: the endpoint's first.")
@data_option
@asynchronous
async def setup(base_url: str | None, model: str, data: str | None) -> int:
    """Install the pinned qwen, find a local model endpoint, try it, and write the settings."""
    from server.commands.setting_up import set_up

    return await set_up(Console(), loaded(data=data), base_url=base_url, model=model)


@main.command()
@data_option
@asynchronous
async def doctor(data: str | None) -> int:
    """Say what works, what is missing, and the command that mends it."""
    from server.commands.doctor.examine import examine, examine_without

    try:
        chosen = load({"data": data}, os.environ)
    except SettingsError as error:
        await examine_without(Console(), error)
        return USAGE
    return await examine(Console(), chosen)


@main.command(short_help="Serve the scripted demo model, which is no review.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8766, show_default=True)
def demo(host: str, port: int) -> None:
    """Serve the scripted demo model: it drives the real qwen, but it is no review."""
    from server.demo.app import serve as serve_demo

    asyncio.run(serve_demo(host, port))


@main.command(short_help="Print the contract with clients, for programs.")
@click.argument("form", type=click.Choice(FORMS), default=FORMS[0])
def schema(form: str) -> None:
    """Print the contract with clients: every message, frame, route and body.

    FORM is JSON Schema if left out. A server answers the documents that fit it at /openapi.json
    and /asyncapi.json.
    """
    from server.contracts import CONTRACTS

    text = CONTRACTS[form]()
    click.echo(text if form == "typescript" else msgspec.json.format(text), nl=form != "typescript")


main.add_command(audit)
main.add_command(user)
