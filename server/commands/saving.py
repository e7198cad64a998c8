"""`podium recording`: save the whole log of a run, or nothing."""

import asyncio
import os
import tempfile
from pathlib import Path

import msgspec

from flows.counted import number_of
from protocol.rest import RECORDING, RECORDING_VERSION, RecordingHeader
from server.client import Client
from server.commands.shared import USAGE, CommandError


async def save_recording(
    client: Client, run_id: str, path: Path, *, live: bool, force: bool
) -> int:
    """Save a run's log at `path`, which has all of it or stays as it was; returns its frames.

    Raises CommandError, with nothing asked for, when something is there already, unless `force`.
    """
    if not force and await asyncio.to_thread(os.path.lexists, path):
        raise _is_there(path)
    partial = await asyncio.to_thread(_beside, path)
    try:
        query = "?live=1" if live else ""
        async for part in client.download(f"/api/runs/{run_id}/recording{query}"):
            await asyncio.to_thread(_append, partial, part)
        frames = await asyncio.to_thread(check, partial)
        await asyncio.to_thread(_name, partial, path, force=force)
    finally:
        await asyncio.to_thread(partial.unlink, missing_ok=True)
    return frames


def check(path: Path) -> int:
    """The number of frames of a recording; raises CommandError when it is none, or not whole."""
    with path.open("rb") as file:
        try:
            header = msgspec.json.decode(file.readline(), type=RecordingHeader)
        except msgspec.DecodeError as error:
            raise CommandError(f"what came is no recording: {error}") from error
        frames = sum(line.endswith(b"\n") for line in file)
    if (header.format, header.version) != (RECORDING, RECORDING_VERSION):
        raise CommandError(
            f"the server sends {header.format} {header.version}",
            hint="this podium is older than the server: bring it up to date",
        )
    if frames != header.frames:
        raise CommandError(
            f"{frames} of {number_of(header.frames, 'frame')} came", hint="try again"
        )
    return frames


def _is_there(path: Path) -> CommandError:
    hint = "--force writes over it, --output elsewhere"
    return CommandError(f"{path} is there already", hint=hint, code=USAGE)


def _name(partial: Path, path: Path, *, force: bool) -> None:
    """Give it its name, which somebody may have taken while it came."""
    if force:
        os.replace(partial, path)
        return
    try:
        os.link(partial, path)
    except FileExistsError as error:
        raise _is_there(path) from error
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise _is_there(path) from None
        os.replace(partial, path)


def _beside(path: Path) -> Path:
    """A new file in the folder of `path`, only for this user: a log quotes the code."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise CommandError(
            f"cannot write to {path.parent}: {error.strerror}", code=USAGE
        ) from error
    os.close(descriptor)
    return Path(name)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
