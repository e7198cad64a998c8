"""Git, without anything of the repository being run or written.

The repository itself is only listed and asked for names. Everything else happens in a private bare
repository that borrows its objects: no configuration, hook, filter or attribute of the repository
is ever read there, and no object, index or reference is written to it.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

TIMEOUT = 120.0

_NEUTRAL = (
    "-c", "core.fsmonitor=false",
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.untrackedCache=false",
    "-c", "core.excludesFile=/dev/null",
    "-c", "core.pager=cat",
    "-c", "core.protectNTFS=false",
    "-c", "safe.directory=*",
)  # fmt: skip

# Attributes here win over every .gitattributes of the tree: nothing converts, filters or diffs.
_ATTRIBUTES = "* -text -eol -filter -ident -working-tree-encoding !diff -export-subst\n"


class GitError(Exception):
    """A git command failed; the message is what git said."""


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        **extra,
    }


def _run(
    arguments: Iterable[str],
    *,
    cwd: Path,
    extra: Mapping[str, str],
    stdin: bytes = b"",
    fine: int = 0,
) -> bytes:
    """What a git command says; raises GitError unless it ends with 0 or with `fine`."""
    try:
        done = subprocess.run(
            ["git", *_NEUTRAL, *arguments],
            cwd=cwd,
            env=_environment(extra),
            input=stdin,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        # ValueError: no argument may hold a NUL.
        raise GitError(f"git could not be run: {error}") from error
    if done.returncode not in (0, fine):
        raise GitError(done.stderr.decode("utf-8", "replace").strip() or "git failed")
    return done.stdout


class Repository:
    """A user's repository as seen from a folder in it. Nothing here writes to it."""

    def __init__(self, folder: Path) -> None:
        """Raises GitError when `folder` is in no work tree."""
        self.folder = folder
        # One question each: a folder's name may hold a newline.
        self.top = Path(self._about("--show-toplevel"))
        self.prefix = self._about("--show-prefix")
        self.object_format = self._about("--show-object-format")
        common = (folder / self._about("--git-common-dir")).resolve()
        self.objects = common / "objects"
        self.shallow = common / "shallow"
        """Where a shallow clone notes the commits whose parents it has not."""

    def _about(self, question: str) -> str:
        return self.ask("rev-parse", question).removesuffix("\n")

    def ask(self, *arguments: str) -> str:
        return _run(arguments, cwd=self.folder, extra={}).decode("utf-8", "surrogateescape")

    def head(self) -> str | None:
        """The commit of HEAD, or None before the first one."""
        return self.resolve("HEAD")

    def branch(self) -> str | None:
        try:
            return self.ask("symbolic-ref", "--short", "-q", "HEAD").strip() or None
        except GitError:
            return None

    def resolve(self, name: str) -> str | None:
        """The commit that a name stands for; None when there is none."""
        try:
            found = self.ask(
                "rev-parse", "--verify", "-q", "--end-of-options", f"{name}^{{commit}}"
            )
        except GitError:
            return None
        return found.strip() or None

    def listed(self) -> list[tuple[str, str]]:
        """(mode, path) of tracked files, and ("", path) of untracked ones that are not ignored;
        paths are relative to the folder."""
        tracked = self.ask("ls-files", "-z", "--stage")
        found = {entry.partition("\t")[2]: entry[:6] for entry in tracked.split("\0") if entry}
        others = self.ask("ls-files", "-z", "--others", "--exclude-standard")
        found.update({path: "" for path in others.split("\0") if path})
        return [(mode, path) for path, mode in found.items()]

    def references(self) -> str:
        """Every reference with its object: changes when the repository's history does."""
        return self.ask("for-each-ref", "--format=%(refname) %(objectname)")

    def candidates(self) -> list[str]:
        """Names that a branch may have come from, likeliest first."""
        usual = ("main", "master", "develop", "trunk")
        names = ["refs/remotes/origin/HEAD"]
        names += [f"refs/remotes/origin/{name}" for name in usual]
        names += [f"refs/heads/{name}" for name in usual]
        return names


class PrivateGit:
    """The private bare repository of one project, below DIR."""

    def __init__(
        self, directory: Path, *, repository: Repository | None, object_format: str
    ) -> None:
        self.directory = directory
        if not directory.exists():
            _create(directory, object_format)
        # Borrowed for reading only: git touches the time of an object that it finds there already
        # when it is about to write the same one.
        self._borrowed = _borrowing(repository) if repository else {}

    def write_tree(self, folder: Path, paths: Iterable[str], *, index: Path) -> str:
        """The tree of these files of a folder, byte for byte."""
        extra = {"GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(folder)}
        listed = "\0".join(paths).encode("utf-8", "surrogateescape")
        self._ask(["update-index", "-z", "--add", "--stdin"], cwd=folder, extra=extra, stdin=listed)
        return self._ask(["write-tree"], cwd=folder, extra=extra).decode().strip()

    def ignored(self, paths: Iterable[str], *, patterns: Path) -> set[str]:
        """Which of the paths a file in .gitignore's syntax names."""
        listed = "\0".join(paths).encode("utf-8", "surrogateescape")
        # The work tree is an empty folder, so that no .gitignore has a say.
        with tempfile.TemporaryDirectory(prefix=".empty-", dir=self.directory.parent) as empty:
            given = ["-c", f"core.excludesFile={patterns}"]
            found = self._ask(
                [*given, "check-ignore", "--no-index", "-z", "--stdin"],
                cwd=Path(empty),
                extra={"GIT_WORK_TREE": empty},
                stdin=listed,
                fine=1,
            )
        return set(found.decode("utf-8", "surrogateescape").split("\0")) - {""}

    def empty_tree(self) -> str:
        return self._ask(["mktree"], cwd=self.directory, extra={}).decode().strip()

    def ask(self, *arguments: str) -> str:
        """Read, with the repository's objects at hand."""
        found = self._ask(arguments, cwd=self.directory, extra=self._borrowed)
        return found.decode("utf-8", "replace")

    def _ask(
        self,
        arguments: Iterable[str],
        *,
        cwd: Path,
        extra: Mapping[str, str],
        stdin: bytes = b"",
        fine: int = 0,
    ) -> bytes:
        extra = {"GIT_DIR": str(self.directory), **extra}
        return _run(arguments, cwd=cwd, extra=extra, stdin=stdin, fine=fine)


def _create(directory: Path, object_format: str) -> None:
    """Make the bare repository elsewhere and give it its name at once: pins may be concurrent."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
    try:
        words = ["init", "--bare", "-q", "--template=", f"--object-format={object_format}", "."]
        _run(words, cwd=place, extra={})
        (place / "info").mkdir(exist_ok=True)
        (place / "info" / "attributes").write_text(_ATTRIBUTES)
        place.rename(directory)
    except OSError:
        if not directory.exists():
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _borrowing(repository: Repository) -> dict[str, str]:
    """The environment that reads a repository's objects, and ends where a shallow clone ends."""
    quoted = str(repository.objects).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    borrowed = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{quoted}"'}
    if repository.shallow.is_file():
        borrowed["GIT_SHALLOW_FILE"] = str(repository.shallow)
    return borrowed
