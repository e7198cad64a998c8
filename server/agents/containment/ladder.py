"""What of the containment this host allows: tried with a real agent's flags, never believed."""

import asyncio
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from protocol.resources import Level
from server.agents.containment.cage import Found
from server.agents.containment.refusals import ELSEWHERE, PACKAGE_HINT, Host, explain, this_host
from server.agents.containment.trial import TrialRoom, trial_room

TOTAL_SECONDS = 30.0
HELP_SECONDS = 5.0
OPTIONS = ("--disable-userns", "--size")
"""Not in every bubblewrap that is about."""

Levels = tuple[Level, ...]
LADDER: tuple[Levels, ...] = (
    tuple(Level),
    (Level.FILESYSTEM, Level.NETWORK),
    (Level.FILESYSTEM, Level.PROCESSES),
    (Level.FILESYSTEM,),
)
"""The sets of levels, the best first. Without the first level bubblewrap has none."""


async def examine(node: Path, package: Path, *, bwrap: Path | None = None) -> Found:
    """Try the levels, the best set first, until one holds: at most TOTAL_SECONDS, mostly 0.1.

    Each trial is an attempt's own command line around a Node that does nothing but the self-test,
    with a relay, a copy and a file to hide. `bwrap` None is the one on PATH. Never raises: what
    goes wrong is the reason why there is no containment.
    """
    if sys.platform != "linux":
        return Found(reason="bubblewrap needs Linux", hint=ELSEWHERE)
    place = bwrap or await asyncio.to_thread(_on_path)
    if place is None:
        return Found(reason="bubblewrap is not installed", hint=PACKAGE_HINT)
    try:
        async with asyncio.timeout(TOTAL_SECONDS), trial_room(node, package) as room:
            return await _climb(place, room)
    except TimeoutError:
        reason = f"bubblewrap was not done within {TOTAL_SECONDS:.0f} s"
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"{place} cannot be tried: {error}"
    return Found(reason=reason, hint=PACKAGE_HINT)


def _on_path() -> Path | None:
    found = shutil.which("bwrap")
    return Path(found) if found else None


async def _climb(bwrap: Path, room: TrialRoom) -> Found:
    """The first rung that proves its levels, with why those above it did not."""
    version, options = await asyncio.to_thread(_features, bwrap)
    most = Found(bwrap=bwrap, version=version, options=options, machine=platform.machine())
    said: dict[Levels, str] = {}
    found = Found(version=version)
    for rung in _rungs(most):
        trial = await room.attempt(rung)
        if trial.proven:
            found = rung
            break
        said[rung.levels] = trial.said
    host = await asyncio.to_thread(this_host)
    return explained(found, said, host=host, bwrap=bwrap)


def _rungs(most: Found) -> Iterator[Found]:
    for levels in LADDER:
        # Some hosts refuse one of these in particular, and no level hangs on them.
        for options in dict.fromkeys((most.options, most.options - {"--disable-userns"})):
            # Only a namespace of processes may have a /proc of its own mounted.
            for proc in (True, False) if Level.PROCESSES in levels else (False,):
                yield msgspec.structs.replace(most, levels=levels, options=options, proc=proc)


def explained(found: Found, said: Mapping[Levels, str], *, host: Host, bwrap: Path) -> Found:
    """With the reason for each missing level, and what mends it: by what bubblewrap said to the
    same levels and that one."""
    refusals = []
    for missing in (level for level in Level if level not in found.levels):
        wanted = tuple(level for level in Level if level in found.levels or level is missing)
        if wanted in said:
            refusals.append(explain(said[wanted], host, bwrap))
    return msgspec.structs.replace(
        found,
        reason="; ".join(dict.fromkeys(refusal.reason for refusal in refusals)) or None,
        hint="; ".join(dict.fromkeys(refusal.hint for refusal in refusals)) or None,
    )


def _features(bwrap: Path) -> tuple[str, frozenset[str]]:
    """Its version and which of OPTIONS it has, as its own help says."""
    version, text = (
        subprocess.run(
            [bwrap, word], capture_output=True, text=True, timeout=HELP_SECONDS, check=False
        )
        for word in ("--version", "--help")
    )
    number = re.search(r"\d+(\.\d+)+", version.stdout)
    known = text.stdout + text.stderr
    return number[0] if number else "unknown", frozenset(o for o in OPTIONS if o in known)
