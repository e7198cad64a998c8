"""What the commands share: exit codes, errors in one line, options, and who answers them."""

import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from protocol.errors import ErrorCode, ProtocolError
from server.client import Client, Unreachable
from server.client.states import Condition, State
from server.commands.terminal import clean_line
from server.local import StartFailed, running_server
from server.settings import Settings, SettingsError, load
from server.settings.sources import misspelt
from server.settings.tables import default_data

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

FAILED, USAGE, UNAVAILABLE, CANCELLED = 1, 2, 4, 130


class CommandError(click.ClickException):
    """An expected failure: one sentence, the way out, and its exit code."""

    def __init__(self, message: str, *, hint: str | None = None, code: int = FAILED) -> None:
        super().__init__(f"{message}\n  → {hint}" if hint else message)
        self.exit_code = code  # type: ignore[misc]  # click declares it on the class


def command_error(error: ProtocolError) -> CommandError:
    codes = {
        ErrorCode.AGENT_UNAVAILABLE: UNAVAILABLE,
        ErrorCode.BAD_ARGUMENTS: USAGE,
        ErrorCode.BAD_MESSAGE: USAGE,
        ErrorCode.UNKNOWN_FLOW: USAGE,
        ErrorCode.NOT_FOUND: USAGE,
    }
    return CommandError(error.message, hint=error.hint, code=codes.get(error.code, FAILED))


class OneText(click.Command):
    """A command whose argument is one text, which a shell takes apart unless it is quoted."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "extra argument" not in error.message:
                raise
            whole = f'podium {self.name} "/code-review small src"'
            says = f"{error.message}\n  → put the whole command in quotes, as {whole}"
            raise click.UsageError(says, ctx) from error


def settings_error(error: SettingsError) -> CommandError:
    return CommandError("\n".join(error.problems), code=USAGE)


def asynchronous(command: Callable[P, Coroutine[Any, Any, int | None]]) -> Callable[P, None]:
    """Run an async command; its expected errors become one clear line and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = asyncio.run(command(*args, **kwargs))
        except ProtocolError as error:
            raise command_error(error) from error
        except SettingsError as error:
            raise settings_error(error) from error
        except (Unreachable, StartFailed) as error:
            hint = error.hint if isinstance(error, Unreachable) else None
            raise CommandError(
                str(error), hint=hint or "`podium doctor` looks for the cause"
            ) from error
        except KeyboardInterrupt:
            code = CANCELLED
        sys.exit(code or 0)

    return run


def loaded(**flags: Any) -> Settings:
    """The settings; says which variables are not read that were meant to be. Raises
    SettingsError."""
    for name, way_out in misspelt(os.environ):
        click.echo(clean_line(f"podium: {name} is not read") + f"\n  → {way_out}", err=True)
    return load(flags, os.environ)


data_option = click.option("--data", metavar="DIR", help="Where everything is kept.")
project_option = click.option(
    "--project", metavar="PATH", default=".", help="The project; default: where you stand."
)
url_option = click.option(
    "--url",
    metavar="URL",
    help="A podium server; its token comes from PODIUM_TOKEN. Of https://, whatever authority the"
    " system trusts is trusted; SSL_CERT_FILE names another.",
)
containment_option = click.option(
    "--containment",
    type=click.Choice(["auto", "required", "off"]),
    help="How agents are contained [auto]. `off` only for one user on this machine.",
)
demo_option = click.option(
    "--demo", is_flag=True, help="Use the scripted demo model (not a review)."
)


def json_option(what: str) -> Callable[[F], F]:
    """`--json`; `what` says in its help what is printed."""
    return click.option("--json", "as_json", is_flag=True, help=f"{what}.")


async def connected(url: str | None, data: str | None) -> Client:
    """A client of the given server, or of the one that runs on this machine."""
    return await find_server(loaded(data=data), url)


async def find_server(settings: Settings, url: str | None) -> Client:
    """A client of the server at `url`, or of the one that runs on DIR."""
    if url is not None:
        if not settings.token:
            raise CommandError("--url needs a token", hint="set PODIUM_TOKEN", code=USAGE)
        return Client(url, settings.token, on_state=ConnectionNews())
    found = await running_server(settings.directory)
    if found is None:
        raise CommandError(
            f"no podium server is running on {settings.directory}",
            hint=f"start one with `podium serve{data_flag(settings)}`",
        )
    return Client(found.url, found.token, on_state=ConnectionNews())


def data_flag(settings: Settings) -> str:
    """` --data DIR`, for a command that somebody is told to type; empty for the default DIR."""
    directory = settings.directory
    default = directory == Path(default_data()).resolve()
    return "" if default else f" --data {shlex.quote(str(directory))}"


class ConnectionNews:
    """Tells of a lost connection once, and when it is back."""

    def __init__(self) -> None:
        self._lost = False

    def __call__(self, condition: Condition) -> None:
        if condition.state is State.RECONNECTING and not self._lost:
            self._lost = True
            click.echo("the connection to the server is lost; trying again …", err=True)
        elif condition.state is State.LIVE and self._lost:
            self._lost = False
            click.echo("connected again", err=True)


def project_root(path: str) -> Path:
    """The git root that a folder lies in, else the folder. Raises CommandError for a file."""
    start = Path(path).resolve()
    if start.is_file():
        raise CommandError(
            f"{path} is a file, and a project is a folder",
            hint=f'to review only this file: podium run "/code-review {path}"',
            code=USAGE,
        )
    for folder in (start, *start.parents):
        if (folder / ".git").exists():
            return folder
    return start
