"""The catalogue on a terminal."""

import click
import msgspec

from flows.registry import Catalogue
from protocol.resources import FlowInfo


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
            _print_one(info)
        else:
            click.echo(f"/{info.name:<16} {info.summary}")


def _print_one(info: FlowInfo) -> None:
    click.echo(f"{info.title}: {info.summary}\n\n  {info.usage}\n")
    if info.aliases:
        click.echo(f"Also: {', '.join('/' + alias for alias in info.aliases)}\n")
    click.echo("Inputs")
    for field in info.inputs:
        shown = field.flag or field.name
        click.echo(f"  {shown:<12} {field.summary}{' (required)' if field.required else ''}")
    click.echo("\nBands")
    for band in info.bands:
        click.echo(f"  {band.name.value:<12} {band.agents} agents: {band.summary}")
