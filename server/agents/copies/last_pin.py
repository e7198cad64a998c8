"""What a pin keeps in mind, so that the same tree again costs a look and no reading."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from server.agents.copies.git import PrivateGit, Question
from server.agents.copies.listing import Watch, ask_files, watch
from server.agents.copies.objects import PLAIN, RUNNABLE
from server.agents.copies.pinned import Pinned
from server.agents.copies.scan import Entry
from server.agents.copies.source import Source
from server.agents.copies.stat_index import Indexed, write_index

INDEX = "pinned.index"


class Last(NamedTuple):
    """What the last pin of a project found, to be compared with what is there now."""

    pinned: Pinned
    entries: Mapping[str, Entry]
    watches: Sequence[Watch]
    """Whatever has a say in the list of files, and every listed path that is not in the copy."""
    others: frozenset[str]
    """What git may name as untracked: it is listed, but not in the copy."""
    steady: bool
    """Whether all of it was at rest, so that the same look means the same content."""


def keep_index(private: PrivateGit, entries: Mapping[str, Entry]) -> None:
    """An index of all that is in the copy, for the question of `ask_changed`."""
    indexed = (
        Indexed(
            path.encode(),
            RUNNABLE if entry.runnable else PLAIN,
            entry.blob,
            entry.signature if entry.settled else None,
        )
        for path, entry in entries.items()
        if not entry.reason
    )
    write_index(private.directory / INDEX, indexed, private.object_format)


def remember(source: Source, pinned: Pinned, entries: Mapping[str, Entry], at: int) -> Last:
    watches = list(source.listing.watches)
    out = [path.rstrip("/") for path, _ in source.listing.left_out]
    watches += [watch(f"{source.project}/{path}", whole=False) for path in out]
    steady = True
    for path in source.listing.candidates:
        entry = entries.get(path)
        if entry is None:
            out.append(path)
            watches.append(watch(f"{source.project}/{path}"))
        elif entry.reason:
            out.append(path)
            watches.append(Watch(f"{source.project}/{path}", entry.signature))
            steady = steady and entry.signature is not None
    steady = steady and all(it.settled(at) for it in watches)
    return Last(pinned, entries, watches, frozenset(out), steady)


def ask_changed(project: Path, pinned: Pinned) -> Question:
    """Ask which files of the copy are changed or gone in the project, and which are new there."""
    index = pinned.private.directory / INDEX
    if pinned.repository is not None:
        options = ("--others", "--modified", "--deleted")
        return ask_files(pinned.repository, pinned.private, *options, index=index)
    return pinned.private.start(
        *("ls-files", "-z", "-t", "--modified", "--deleted"),
        cwd=project,
        extra={"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(project)},
    )


def is_known(answer: bytes, last: Last) -> bool:
    """Whether git names nothing but untracked files that were listed before."""
    entries = answer.decode("utf-8", "surrogateescape").split("\0")
    return all(
        entry[0] == "?" and entry[2:].rstrip("/") in last.others for entry in entries if entry
    )
