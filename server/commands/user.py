"""`podium user`: who may come in besides the operator, and to which projects."""

from pathlib import Path

import click
import msgspec

from protocol.users import Admitted, NewToken, NewUser, ProjectChange, UserInfo
from server.commands.shared import (
    USAGE,
    CommandError,
    asynchronous,
    data_option,
    json_option,
    loaded,
    project_root,
    url_option,
)
from server.commands.terminal import clean_line

EPILOG = """\b
podium user add ann --project /srv/code/shop    let ann in, and print her link
podium user token ann --label laptop --days 90  another token of hers
podium user change ann --project /srv/code/api  one more project
podium user revoke ann                          out, now and everywhere

A running server feels every change at once: open sockets and event streams of
whoever is revoked are closed. Without one the store is changed itself."""

NAME_HINT = "letters, digits and . _ @ + -, no spaces; a letter or digit first, at most 100"

name_argument = click.argument("name")
days_option = click.option(
    "--days", type=click.IntRange(1, 3650), help="How long the token is good [until revoked]."
)
label_option = click.option("--label", default="", help="What the token is for, as `laptop`.")
paths_option = click.option(
    "--project",
    "projects",
    metavar="DIR",
    multiple=True,
    help="Become a member of this project, made one if it is none; may be given again.",
)


@click.group(epilog=EPILOG)
def user() -> None:
    """Let people in, change what they see, and put them out.

    Whoever runs podium is the operator, `local`, with the token in DIR/token: a member of every
    project, and the only one who may do this. Everybody else sees the projects that they are a
    member of, and their own runs.
    """


@user.command(short_help="Let somebody in, and print a token and a link.")
@name_argument
@paths_option
@days_option
@label_option
@click.option("--service", is_flag=True, help="A chat back-end: mints tickets, nothing else.")
@click.option("--again", is_flag=True, help="Let a revoked user in again, with all earlier runs.")
@url_option
@data_option
@json_option("Print JSON")
@asynchronous
async def add(
    name: str,
    projects: tuple[str, ...],
    days: int | None,
    label: str,
    url: str | None,
    data: str | None,
    *,
    service: bool,
    again: bool,
    as_json: bool,
) -> None:
    """Let NAME in, as a member of each --project, and print a token and a link to sign in with.

    The token is shown this once and kept nowhere. Several users need project_roots in the settings,
    and containment that is not off.
    """
    from server.commands.desk import open_desk

    new = _checked(
        NewUser,
        name=name,
        service=service,
        projects=_paths(projects, url),
        days=days,
        label=label,
        again=again,
    )
    async with open_desk(loaded(data=data), url) as desk:
        _show_token(await desk.add(new), as_json=as_json)


@user.command(short_help="Print a further token of somebody.")
@name_argument
@days_option
@label_option
@url_option
@data_option
@json_option("Print JSON")
@asynchronous
async def token(
    name: str,
    days: int | None,
    label: str,
    url: str | None,
    data: str | None,
    *,
    as_json: bool,
) -> None:
    """Print a further token of NAME: for another machine, or in place of one that is lost.

    The earlier ones stay good; `podium user revoke NAME --token ID` ends one.
    """
    from server.commands.desk import open_desk

    wanted = _checked(NewToken, days=days, label=label)
    async with open_desk(loaded(data=data), url) as desk:
        _show_token(await desk.new_token(name, wanted), as_json=as_json)


@user.command()
@name_argument
@paths_option
@click.option(
    "--remove-project",
    "removed",
    metavar="DIR",
    multiple=True,
    help="No longer a member of this one; may be given again.",
)
@url_option
@data_option
@asynchronous
async def change(
    name: str,
    projects: tuple[str, ...],
    removed: tuple[str, ...],
    url: str | None,
    data: str | None,
) -> None:
    """Make NAME a member of projects, or a member no longer.

    Runs of a project that NAME has left are invisible to NAME, and those under way are stopped.
    """
    from server.commands.desk import open_desk

    if not projects and not removed:
        raise CommandError(
            "nothing to change", hint="give --project or --remove-project", code=USAGE
        )
    wanted = ProjectChange(add=_paths(projects, url), remove=_paths(removed, url))
    async with open_desk(loaded(data=data), url) as desk:
        before = next((it for it in await desk.all() if it.id == name), None)
        click.echo(_line(await desk.change_projects(name, wanted)))
    for path in _not_hers(before, wanted.remove):
        click.echo(clean_line(f"{name} was no member of {path}"), err=True)


@user.command(short_help="Put somebody out, now and everywhere.")
@name_argument
@click.option("--token", "token_id", metavar="ID", help="Only this token; `list` shows the ids.")
@url_option
@data_option
@asynchronous
async def revoke(name: str, token_id: str | None, url: str | None, data: str | None) -> None:
    """Put NAME out: no token, session, ticket or socket works any more, and runs under way stop.

    The finished runs are kept. The name is never given to somebody else.
    """
    from server.commands.desk import open_desk

    async with open_desk(loaded(data=data), url) as desk:
        if token_id is not None:
            await desk.revoke_token(name, token_id)
            click.echo(f"token {clean_line(token_id)} of {clean_line(name)} is revoked")
            return
        info = await desk.revoke(name)
    click.echo(f"{info.id} is revoked")


@user.command("list")
@url_option
@data_option
@json_option("Print JSON")
@asynchronous
async def list_users(url: str | None, data: str | None, *, as_json: bool) -> None:
    """List who may come in, with projects and tokens. No token itself is shown: none is kept."""
    from server.commands.desk import open_desk

    async with open_desk(loaded(data=data), url) as desk:
        found = await desk.all()
    for info in found:
        if as_json:
            click.echo(msgspec.json.encode(info))
            continue
        click.echo(_line(info))
        for it in info.tokens:
            ends = it.revoked_at or it.expires_at
            until = "revoked" if it.revoked_at else "until" if ends else "until it is revoked"
            parts = [f"    token {it.id}", it.label, until, (ends or "")[:10]]
            click.echo(clean_line("  ".join(part for part in parts if part)))


def _line(info: UserInfo) -> str:
    if info.revoked_at:
        return clean_line(f"{info.id}  {info.kind.value}  revoked {info.revoked_at[:10]}")
    projects = ", ".join(project.path for project in info.projects)
    member = {"operator": "every project", "service": "speaks for users"}.get(info.kind.value)
    return clean_line(f"{info.id}  {info.kind.value}  {member or projects or 'no project yet'}")


def _show_token(admitted: Admitted, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(admitted))
        return
    made = next(it for it in admitted.user.tokens if it.id == admitted.token_id)
    click.echo(_line(admitted.user))
    click.echo(f"id     {admitted.token_id}")
    click.echo(f"token  {admitted.token}")
    if admitted.login_url:
        click.echo(f"link   {admitted.login_url}")
    until = f"until {made.expires_at[:10]}" if made.expires_at else "until it is revoked"
    click.echo(
        f"Good {until}. It is shown this once and kept nowhere: whoever has it is"
        f" {admitted.user.id}."
    )


def _checked(kind: type, **fields: object):  # type: ignore[no-untyped-def]  # one of two Structs
    """The Struct, or a CommandError that says what is taken."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        if "`$.name`" in str(error):
            message, hint = f"{fields['name']!r} cannot be a name", NAME_HINT
        elif "`$.label`" in str(error):
            message, hint = "this cannot be a label", "one line of at most 100 characters"
        else:
            message, hint = str(error), "`podium user --help`"
        raise CommandError(message, hint=hint, code=USAGE) from error


def _not_hers(before: UserInfo | None, removed: list[str]) -> list[str]:
    """What was to be removed of projects that the user was no member of."""
    projects = before.projects if before is not None else []
    hers = {key for project in projects for key in (project.id, project.path)}
    return [path for path in removed if path not in hers]


def _paths(given: tuple[str, ...], url: str | None) -> list[str]:
    """Of this machine for its own server; another one's are given as they are there."""
    if url is None:
        return [str(project_root(path)) for path in given]
    for path in given:
        if not Path(path).is_absolute():
            raise CommandError(
                f"{path} is no absolute path",
                hint="--url: give it as the server has it",
                code=USAGE,
            )
    return list(given)
