"""The catalogue on a terminal."""

import click
import msgspec

from flows.model import Flow
from flows.registry import Catalogue
from protocol.resources import FlowInfo

FLAGS = {
    "--only": "only these reviewers, whatever the band: --only security,test",
    "--skip": "without these roles: --skip data",
    "--exclude": "without a file, a folder or a pattern: --exclude '*.md'",
}
"""Of every flow."""


def print_flows(catalogue: Catalogue, name: str | None, *, as_json: bool) -> None:
    """Print every flow in a line, or one flow in full; raises ProtocolError for an unknown one."""
    infos = catalogue.infos()
    if name is not None:
        wanted = catalogue.get(name.lstrip("/")).id
        infos = [info for info in infos if info.name == wanted]
    for info in infos:
        if as_json:
            click.echo(msgspec.json.encode(info))
        elif name is not None:
            _print_one(info, catalogue.get(info.name))
        else:
            click.echo(f"/{info.name:<16} {info.summary}")


def _print_one(info: FlowInfo, flow: Flow) -> None:
    click.echo(f"{info.title}: {info.summary}\n\n  {info.usage}\n")
    if info.aliases:
        click.echo(f"Also: {', '.join('/' + alias for alias in info.aliases)}\n")
    click.echo("Inputs")
    for field in info.inputs:
        shown = field.flag or field.name
        click.echo(f"  {shown:<12} {field.summary}{' (required)' if field.required else ''}")
    for flag, summary in FLAGS.items():
        click.echo(f"  {flag:<12} {summary}")
    click.echo("\nRoles, for --only and --skip")
    for role, title in _roles(flow).items():
        click.echo(f"  {role:<12} {title}")
    click.echo("\nBands")
    for band in info.bands:
        click.echo(f"  {band.name.value:<12} {_agents(band.agents)}: {band.summary}")


def _agents(count: str) -> str:
    return f"{count} agent" if count == "1" else f"{count} agents"


def _roles(flow: Flow) -> dict[str, str]:
    """The title of the first step of each role."""
    titles: dict[str, str] = {}
    for step in flow.steps:
        if step.role is not None:
            titles.setdefault(step.role, step.title)
    return titles
