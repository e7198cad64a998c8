"""What is under review: the scope chain of a review, from git objects alone.

Every diff is between two trees in the private repository, so no filter, hook or configuration of
the user's repository can run or change it.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from flows.slash import band_hint
from protocol.plan import LineRange, ScopeFile
from server.agents.copies.git import GitError
from server.agents.copies.objects import BLOB, TREE, Object, object_id
from server.agents.copies.pinned import Pinned

PATCH_BYTES = 64 * 1024
TOTAL_PATCH_BYTES = 1024 * 1024
CUT = "\n[podium: the rest of this patch is not shown]\n"
STATUS = {"A": "added", "M": "modified", "R": "renamed", "C": "added", "T": "modified"}

_USUAL = ("main", "master", "develop", "trunk")
BASES = (
    "refs/remotes/origin/HEAD",
    *(f"refs/remotes/origin/{name}" for name in _USUAL),
    *(f"refs/heads/{name}" for name in _USUAL),
)
"""Names that a branch may have come from, likeliest first."""

_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@")


class Changes(NamedTuple):
    """The files in scope, how that was found, and the patches where there is a change."""

    kind: str
    description: str
    files: list[ScopeFile]
    base: str | None = None
    deleted: tuple[str, ...] = ()
    patches: dict[str, str] | None = None


class BadScope(Exception):
    """A path or reference that was asked for does not exist. `field` names the input."""

    def __init__(self, field: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.hint = hint


def find_changes(
    pinned: Pinned, *, base: str | None, paths: Sequence[str], exclude: Sequence[str]
) -> Changes:
    """Paths, else uncommitted changes, else the branch, else HEAD's own diff, else the tree.

    Raises BadScope.
    """
    return _without(_scope(pinned, base, paths), exclude)


def _scope(pinned: Pinned, base: str | None, paths: Sequence[str]) -> Changes:
    if base is not None:
        return _narrowed(_since(pinned, base), pinned, paths)
    if paths:
        return _named(pinned, paths)
    for attempt in (_uncommitted, _branch, _head):
        found = attempt(pinned)
        if found is not None and (found.files or found.deleted):
            return found
    files = [ScopeFile(path=file.path, lines=file.lines) for file in pinned.files]
    return Changes("tree", "the whole tree", files)


# --- by paths -----------------------------------------------------------------------------------


def _named(pinned: Pinned, paths: Sequence[str]) -> Changes:
    chosen = _matching(pinned, paths)
    files = [ScopeFile(path=it.path, lines=it.lines) for it in pinned.files if it.path in chosen]
    return Changes("paths", f"the files of {', '.join(paths)}", files)


def _narrowed(found: Changes, pinned: Pinned, paths: Sequence[str]) -> Changes:
    """A change, but only where the paths say."""
    if not paths:
        return found
    chosen = _matching(pinned, paths)
    files = [file for file in found.files if file.path in chosen]
    patches = {path: text for path, text in (found.patches or {}).items() if path in chosen}
    description = f"{found.description}, in {', '.join(paths)}"
    return found._replace(description=description, files=files, deleted=(), patches=patches)


def _matching(pinned: Pinned, paths: Sequence[str]) -> set[str]:
    chosen: set[str] = set()
    for path in paths:
        wanted = path.removeprefix("./").rstrip("/")
        hits = {file.path for file in pinned.files if _is_at(file.path, wanted)}
        if not hits:
            raise BadScope(
                "paths",
                f"`{path}` names no file of the project that can be reviewed",
                hint=band_hint(path) if path == paths[0] else None,
            )
        chosen |= hits
    return chosen


def _is_at(path: str, wanted: str) -> bool:
    return wanted in ("", ".", path) or path.startswith(f"{wanted}/") or fnmatchcase(path, wanted)


def _without(found: Changes, exclude: Sequence[str]) -> Changes:
    if not exclude:
        return found
    patterns = [path.removeprefix("./").rstrip("/") for path in exclude]

    def kept(path: str) -> bool:
        return not any(_is_at(path, pattern) for pattern in patterns)

    return found._replace(
        description=f"{found.description}, without {', '.join(exclude)}",
        files=[file for file in found.files if kept(file.path)],
        deleted=tuple(path for path in found.deleted if kept(path)),
        patches={path: text for path, text in (found.patches or {}).items() if kept(path)},
    )


# --- by change ----------------------------------------------------------------------------------


def _uncommitted(pinned: Pinned) -> Changes | None:
    if pinned.head is None:
        return None
    return _diff(pinned, pinned.head, pinned.tree_id, "uncommitted", "uncommitted changes")


def _since(pinned: Pinned, base: str) -> Changes:
    commit = pinned.private.resolve(base) if pinned.repository else None
    if commit is None or pinned.head is None:
        raise BadScope("base", f"`{base}` is no commit of this repository")
    fork = _fork_point(pinned, commit) or commit
    return _diff(pinned, fork, pinned.tree_id, "branch", f"changes since {base}")


def _branch(pinned: Pinned) -> Changes | None:
    """What the branch added since the nearest place it can have come from."""
    if pinned.repository is None or pinned.head is None:
        return None
    nearest = _nearest_base(pinned)
    if nearest is None:
        return None
    name, fork = nearest
    shown = name.removeprefix("refs/remotes/").removeprefix("refs/heads/")
    return _diff(pinned, fork, pinned.tree_id, "branch", f"changes since the fork from {shown}")


def _nearest_base(pinned: Pinned) -> tuple[str, str] | None:
    best: tuple[int, str, str] | None = None
    for name in BASES:
        commit = pinned.private.resolve(name)
        fork = _fork_point(pinned, commit) if commit else None
        if fork is None or fork == pinned.head:
            continue
        distance = int(pinned.private.ask("rev-list", "--count", f"{fork}..{pinned.head}"))
        if best is None or distance < best[0]:
            best = (distance, name, fork)
    return (best[1], best[2]) if best else None


def _fork_point(pinned: Pinned, commit: str) -> str | None:
    try:
        return pinned.private.ask("merge-base", commit, str(pinned.head)).strip() or None
    except GitError:
        return None


def _head(pinned: Pinned) -> Changes | None:
    """The last commit's own diff."""
    if pinned.head is None:
        return None
    parents = pinned.private.ask("rev-list", "--parents", "-n1", pinned.head).split()[1:]
    if not parents:
        return None
    return _diff(pinned, parents[0], pinned.tree_id, "head", "the last commit")


def _diff(pinned: Pinned, old: str, new: str, kind: str, description: str) -> Changes:
    """The change between two trees, as far as it is about files of the copy."""
    old_tree = _subtree(pinned, old)
    lines = {file.path: file.lines for file in pinned.files}
    pinned.private.add(_fresh(pinned, old_tree, new))
    statuses, deleted = _statuses(pinned, old_tree, new)
    known = {path: status for path, status in statuses.items() if path in lines}
    whole = _patches(pinned, old_tree, new, known)
    files = [
        ScopeFile(path=path, lines=lines[path], status=name, added=_added(whole.get(path, "")))
        for path, (name, _) in sorted(known.items())
    ]
    out = {path for path, _ in pinned.left_out}
    folders = tuple(path for path in out if path.endswith("/"))
    gone = tuple(path for path in deleted if path not in out and not path.startswith(folders))
    return Changes(kind, description, files, old, gone, _bounded(whole))


def _fresh(pinned: Pinned, old: str, new: str) -> Iterator[tuple[bytes, Object]]:
    """The files of the copy that are not as in the old tree, as objects. The repository may hold
    them too, but what it says of the copy is not taken for true."""
    raw = pinned.private.ask("diff-tree", "-r", "-z", "--no-renames", "--raw", old, new)
    parts = iter(raw.split("\0"))
    for facts in parts:
        path = next(parts, "")
        if not path or facts.endswith("D"):
            continue
        content = (pinned.path / path).read_bytes()
        name = object_id(BLOB, content, pinned.private.object_format)
        if name.hex() != facts.split(" ")[3]:
            raise GitError(f"the copy of {path} has changed")
        yield name, Object(BLOB, content)


def _subtree(pinned: Pinned, commit: str) -> str:
    """The commit's tree for the project's folder; the empty tree when it was not there yet."""
    prefix = pinned.repository.prefix if pinned.repository else ""
    try:
        return pinned.private.ask("rev-parse", "--verify", "-q", f"{commit}:{prefix}").strip()
    except GitError:
        return object_id(TREE, b"", pinned.private.object_format).hex()


class Status(NamedTuple):
    name: str
    source: str | None = None
    """What it was renamed from."""


def _statuses(pinned: Pinned, old: str, new: str) -> tuple[dict[str, Status], list[str]]:
    """How each path of the new tree changed, and the paths that are gone."""
    raw = pinned.private.ask("diff-tree", "-r", "-z", "-M", "--name-status", old, new)
    parts = iter(raw.split("\0"))
    statuses: dict[str, Status] = {}
    deleted: list[str] = []
    for code in parts:
        if not code:
            continue
        source = next(parts)
        if code[0] == "D":
            deleted.append(source)
        elif code[0] in "RC":
            statuses[next(parts)] = Status(STATUS[code[0]], source)
        else:
            statuses[source] = Status(STATUS.get(code[0], "modified"))
    # What is withheld seems deleted, and its text must not come back as the source of a rename.
    withheld = pinned.withheld(it.source for it in statuses.values() if it.source)
    for path, status in statuses.items():
        if status.source in withheld:
            statuses[path] = Status("added")
    return statuses, deleted


def _patches(pinned: Pinned, old: str, new: str, statuses: Mapping[str, Status]) -> dict[str, str]:
    """The whole patch of each path."""
    alone = [path for path, status in statuses.items() if status.name == "added"]
    others = [path for path in statuses if statuses[path].name != "added"]
    renamed = _diff_text(pinned, ["-M"], old, new) if others else ""
    plain = _diff_text(pinned, ["--no-renames", "--diff-filter=A"], old, new) if alone else ""
    return _parted(renamed, set(others)) | _parted(plain, set(alone))


def _diff_text(pinned: Pinned, options: Iterable[str], old: str, new: str) -> str:
    return pinned.private.ask(
        "diff-tree", "-r", "-p", "-U3", "--no-ext-diff", "--no-textconv", "--no-color",
        "--src-prefix=a/", "--dst-prefix=b/", *options, old, new,
    )  # fmt: skip


def _parted(text: str, wanted: set[str]) -> dict[str, str]:
    patches = re.split(r"^(?=diff --git )", text, flags=re.MULTILINE)
    named = ((_path_of(patch, wanted), patch) for patch in patches)
    return {path: patch for path, patch in named if path is not None}


def _bounded(whole: Mapping[str, str]) -> dict[str, str]:
    """Patches as briefs show them: bounded one by one and in total."""
    patches: dict[str, str] = {}
    total = 0
    for path, patch in sorted(whole.items()):
        if total >= TOTAL_PATCH_BYTES:
            break
        if len(patch.encode()) > PATCH_BYTES:
            patch = patch.encode()[:PATCH_BYTES].decode("utf-8", "ignore") + CUT
        total += len(patch.encode())
        patches[path] = patch
    return patches


def _path_of(patch: str, wanted: set[str]) -> str | None:
    """The new path of a patch, if it is one of the wanted ones."""
    for line in patch.split("\n", 8)[:8]:
        for start, prefix in (("+++ ", "b/"), ("rename to ", "")):
            path = _unquoted(line.removeprefix(start).rstrip("\t")).removeprefix(prefix)
            if line.startswith(start) and path in wanted:
                return path
    return None


def _unquoted(name: str) -> str:
    """A name as it is: git writes odd ones in quotes, with C's escapes, in ASCII alone."""
    if not name.startswith('"'):
        return name
    value: bytes = ast.literal_eval(f"b{name}")
    return value.decode("utf-8", "replace")


def _added(patch: str) -> list[LineRange]:
    """The lines that a patch adds, as ranges in the new file."""
    added: list[LineRange] = []
    line = 0
    for text in patch.split("\n"):
        hunk = _HUNK.match(text)
        if hunk:
            line = int(hunk[1])
        elif line and text.startswith("+"):
            if added and added[-1].end == line - 1:
                added[-1] = LineRange(added[-1].start, line)
            else:
                added.append(LineRange(line, line))
            line += 1
        elif line and text.startswith(" "):
            line += 1
    return added
