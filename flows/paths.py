"""Paths of a project: their normal form, globs over them, and what kind of file they name."""

import re
from enum import IntEnum


class FileKind(IntEnum):
    """How much a review gains from reading a file; lower is more."""

    SOURCE = 0
    CONFIG = 1
    PROSE = 2
    NOISE = 3
    """Generated, vendored, locked or binary."""


SOURCE_SUFFIXES = frozenset(
    "c cc cpp cs css cxx dart ex exs erl go graphql groovy h hpp hs html java jl js jsx kt kts lua"
    " m mjs cjs ml mm php pl proto ps1 py pyi pyx r rb rs scala scss sh bash sql svelte swift ts"
    " tsx vue zig".split()
)
PROSE_SUFFIXES = frozenset("md markdown rst txt adoc".split())
NOISE_SUFFIXES = frozenset(
    "lock map min.js min.css png jpg jpeg gif ico svg webp pdf zip gz woff woff2 ttf snap pb.go"
    " _pb2.py g.dart csv".split()
)
NOISE_NAMES = frozenset(
    "package-lock.json pnpm-lock.yaml npm-shrinkwrap.json go.sum requirements.lock".split()
)
NOISE_FOLDERS = frozenset(
    "node_modules vendor third_party dist build target .venv venv __pycache__ generated"
    " __generated__".split()
)


class PathError(ValueError):
    """The text names no place inside the project."""


def normalise(text: str) -> str:
    """Return the repository-relative form of a path or glob; `.` is the whole project.

    Raises PathError for an absolute path, one that leaves the project, and one with control
    characters. Whether the path exists is not looked at.
    """
    if text.startswith("/") or re.match(r"[A-Za-z]:[\\/]", text):
        raise PathError("an absolute path; name it relative to the project")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise PathError("a control character in a path")
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and not parts:
            raise PathError("a path outside the project")
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts) or "."


def kind_of(path: str) -> FileKind:
    """Tell the kind of a file from its path alone."""
    *folders, name = path.lower().split("/")
    if name in NOISE_NAMES or NOISE_FOLDERS.intersection(folders):
        return FileKind.NOISE
    if name.endswith(tuple(NOISE_SUFFIXES)):
        return FileKind.NOISE
    suffix = name.rpartition(".")[2] if "." in name else ""
    if suffix in SOURCE_SUFFIXES:
        return FileKind.SOURCE
    return FileKind.PROSE if suffix in PROSE_SUFFIXES else FileKind.CONFIG


def matcher(globs: list[str]) -> re.Pattern[str]:
    """Compile globs to one pattern: `*` and `?` stay inside a folder, `**` crosses folders.

    A glob without `/` matches a file of that name in any folder.
    """
    return re.compile("|".join(f"(?:{_regex(glob)})" for glob in globs) or r"(?!)")


def _regex(glob: str) -> str:
    anchored = glob if "/" in glob or glob == "**" else f"**/{glob}"
    pattern = ""
    for piece in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", anchored):
        pattern += _GLOB_PIECES.get(piece) or re.escape(piece)
    return rf"{pattern}\Z"


_GLOB_PIECES = {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
