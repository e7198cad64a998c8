"""`podium audit`: who did what, from the files of this machine."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import click
import msgspec

from flows.counted import number_of
from server.commands.shared import (
    USAGE,
    CommandError,
    data_option,
    json_option,
    loaded,
    settings_error,
)
from server.commands.terminal import clean_line
from server.settings import SettingsError
from server.users.audit import FILE, KEPT
from server.world import rfc3339

UNITS = {"m": "minutes", "h": "hours", "d": "days"}
FACTS = ("run_id", "project_id", "user", "token_id", "way", "peer")


@click.command(short_help="Say who did what, from the audit log of this machine.")
@click.option("--since", metavar="WHEN", help="As 30m, 12h, 7d or 2026-01-31 [everything kept].")
@click.option("--user", metavar="NAME", help="What NAME did, and what was done about NAME.")
@json_option("The lines as they are kept")
@data_option
def audit(since: str | None, user: str | None, data: str | None, *, as_json: bool) -> None:
    """Print the audit log of this machine's podium, the oldest line first.

    It has sign-ins and refusals, launches, views, exports and changes of users; never what was
    asked or answered.
    """
    try:
        directory = loaded(data=data).directory
    except SettingsError as error:
        raise settings_error(error) from error
    first = "" if since is None else _moment(since)
    for line in _lines(directory):
        entry = _entry(line)
        if entry["at"] < first or (user and user not in (entry.get("who"), entry.get("user"))):
            continue
        click.echo(line if as_json else clean_line(_told(entry)))


def _lines(directory: Path) -> Iterator[str]:
    with ExitStack() as opened:
        try:
            for file in reversed(_opened(directory, opened)):
                yield from (line.rstrip("\n") for line in file)
        except OSError as error:
            raise CommandError(f"{error.filename} cannot be read: {error.strerror}") from error


def _opened(directory: Path, opened: ExitStack) -> list[IO[str]]:
    """The files, the newest first: a server that goes on to the next file meanwhile gives each the
    name of an older one. So none is missed, and one that comes twice is taken once."""
    files: list[IO[str]] = []
    for name in (FILE, *(f"{FILE}.{number}" for number in range(1, KEPT + 1))):
        with suppress(FileNotFoundError):
            path = directory / name
            file = opened.enter_context(path.open(encoding="utf-8", errors="replace"))
            if not any(os.path.sameopenfile(file.fileno(), it.fileno()) for it in files):
                files.append(file)
    return files


def _entry(line: str) -> dict[str, Any]:
    """A line that a crash has cut says nothing of its time; it is shown all the same."""
    try:
        return {"at": "", **msgspec.json.decode(line, type=dict[str, Any])}
    except msgspec.DecodeError:
        return {"at": "~", "what": line}


def _told(entry: dict[str, Any]) -> str:
    if "lost" in entry:
        return f"{entry['at']}  {number_of(entry['lost'], 'line')} left out"
    facts = " ".join(f"{name}={entry[name]}" for name in FACTS if name in entry)
    who = entry.get("who") or "–"
    return f"{entry['at']}  {who:<12} {entry.get('what'):<16} {entry.get('outcome')}  {facts}"


def _moment(text: str) -> str:
    """The time that `--since` means, as the lines have it."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    if found:
        ago = timedelta(**{UNITS[found[2]]: int(found[1])})
        return rfc3339(datetime.now(UTC) - ago)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{text} is no time", hint="as 30m, 12h, 7d or 2026-01-31", code=USAGE
        ) from None
    return rfc3339(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
