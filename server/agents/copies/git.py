"""Git, without anything of a repository being run or written.

Every command runs in a private git directory, which has its own configuration, attributes and
objects. Of a user's repository it has a copy of HEAD and links to the references; the index is
named to git and objects are borrowed where a command needs them. The repository's configuration
(and with it every filter, hook, monitor, pager, helper and include) is never read.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from server.agents.containment.guardian import stat
from server.agents.copies.objects import Object, packs_of

TIMEOUT = 120.0
LOOK_SECONDS, IDLE_LOOKS = 1.0, 5
"""Git is looked at each second; who sleeps at so many looks in a row waits for something that does
not come, as a pipe in place of a `.gitignore` or of a reference."""
MEMORY = 1024**3
"""Bytes that one command may take, without the files that it maps. Git reads some files whole,
whatever their size: a `.gitignore` of holes, or a reference that is a link to /dev/zero."""
PACKS, PACKED_BYTES = 32, 64 * 1024 * 1024
"""Past one of these a private directory's objects are dropped: each can be made again."""

# No fsync: what git writes here can be made again, and on a busy disk a pin would wait for seconds.
_NEUTRAL = (
    "-c", "core.fsmonitor=false",
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.untrackedCache=false",
    "-c", "core.excludesFile=/dev/null",
    "-c", "core.attributesFile=/dev/null",
    "-c", "core.pager=cat",
    "-c", "core.protectNTFS=false",
    "-c", "safe.directory=*",
    "-c", "gc.auto=0",
    "-c", "core.fsync=none",
)  # fmt: skip

# Attributes here win over every .gitattributes of the tree: nothing converts, filters or diffs.
_ATTRIBUTES = "* -text -eol -filter -ident -working-tree-encoding !diff -export-subst\n"

_READING = frozenset(
    "check-ignore config diff-tree for-each-ref ls-files merge-base rev-list rev-parse".split()
)
"""Commands that write nowhere. Others may not run where a repository's references are linked,
but for `index-pack`, which writes private objects alone."""


class GitError(Exception):
    """A git command failed, or a repository is not as it must be; the message says how."""


def _bounded(command: Sequence[str]) -> list[str]:
    """The command under MEMORY, from its first instruction on: set from outside, the bound would
    come after what a quick git has taken already."""
    if sys.platform != "linux":
        return list(command)
    script = 'ulimit -d "$1"; shift; unset PWD OLDPWD SHLVL; exec "$@"'
    return ["/bin/sh", "-c", script, "git", str(MEMORY // 1024), *command]


class Question:
    """A git command that runs meanwhile. `answer` waits for it; who may not come to that uses it
    as a context."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        extra: Mapping[str, str],
        stdin: bytes = b"",
        fine: int = 0,
    ) -> None:
        """Raises GitError when git cannot be run."""
        self._stdin = stdin
        self._fine = fine
        try:
            self._process = subprocess.Popen(
                _bounded(["git", *_NEUTRAL, *arguments]),
                cwd=cwd,
                env=_environment(extra),
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except (OSError, ValueError) as error:
            # ValueError: no argument may hold a NUL.
            raise GitError(f"git could not be run: {error}") from error

    def __enter__(self) -> "Question":
        return self

    def __exit__(self, *_: object) -> None:
        """End the command if nobody waits for it."""
        self._process.kill()
        self._process.__exit__(None, None, None)

    def answer(self) -> bytes:
        """What the command says; raises GitError unless it ends with 0 or with `fine`."""
        with self:
            process = self._process
            found, complaint = self._communicate()
        if process.returncode not in (0, self._fine):
            raise GitError(complaint.decode("utf-8", "replace").strip() or "git failed")
        return found

    def _communicate(self) -> tuple[bytes, bytes]:
        process, given = self._process, self._stdin or None
        until, idle, used = time.monotonic() + TIMEOUT, 0, ""
        while True:
            try:
                return process.communicate(given, timeout=LOOK_SECONDS)
            except subprocess.TimeoutExpired as error:
                given = None
                if time.monotonic() >= until:
                    raise GitError(f"git took more than {TIMEOUT:.0f} s") from error
                # Its state and the time it has had; a slow disk is another state than a sleep.
                fields = stat(process.pid) or []
                now = " ".join((*fields[:1], *fields[11:13]))
                idle = idle + 1 if now == used and now.startswith("S") else 0
                used = now
                if idle >= IDLE_LOOKS:
                    why = "git waits for something in the repository that is no plain file"
                    raise GitError(why) from error


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        **extra,
    }


class PrivateGit:
    """A git directory of podium's own. It serves the process that made it, and no later one: what
    a crash of the machine has left of it may have holes."""

    def __init__(self, directory: Path, *, object_format: str) -> None:
        """Make it anew, whatever is there; raises OSError."""
        self.directory = directory
        self.object_format = object_format
        self.borrowed: Mapping[str, str] = {}
        """The environment that lends the repository's objects, for reading alone: git touches
        the time of an object that it finds there when it is about to write the same one."""
        self._own: set[bytes] = set()
        """Objects that were added."""
        _create(directory, object_format)

    def start(
        self,
        *arguments: str,
        cwd: Path | None = None,
        extra: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        fine: int = 0,
        settings: Iterable[str] = (),
        borrowing: bool = True,
    ) -> Question:
        """Ask something that writes nothing, with the borrowed objects at hand. `settings` are
        `key=value`."""
        assert arguments[0] in _READING, arguments
        return Question(
            [word for setting in settings for word in ("-c", setting)] + list(arguments),
            cwd=cwd or self.directory,
            extra={
                "GIT_DIR": str(self.directory),
                **(self.borrowed if borrowing else {}),
                **(extra or {}),
            },
            stdin=stdin,
            fine=fine,
        )

    def ask(self, *arguments: str) -> str:
        return self.start(*arguments).answer().decode("utf-8", "replace")

    def resolve(self, name: str) -> str | None:
        """The commit that a name stands for; None when there is none."""
        try:
            found = self.ask(
                "rev-parse", "--verify", "-q", "--end-of-options", f"{name}^{{commit}}"
            )
        except GitError:
            return None
        return found.strip() or None

    def ignored(self, paths: Iterable[str], *, patterns: Path) -> set[str]:
        """Which of the paths a file in .gitignore's syntax names."""
        listed = "\0".join(paths).encode("utf-8", "surrogateescape")
        # The work tree is an empty folder, so that no .gitignore has a say.
        with tempfile.TemporaryDirectory(prefix=".empty-", dir=self.directory) as empty:
            found = self.start(
                *("check-ignore", "--no-index", "-z", "--stdin"),
                settings=[f"core.excludesFile={patterns}"],
                cwd=Path(empty),
                extra={"GIT_WORK_TREE": empty},
                stdin=listed,
                fine=1,
            ).answer()
        return set(found.decode("utf-8", "surrogateescape").split("\0")) - {""}

    def add(self, objects: Iterable[tuple[bytes, Object]]) -> None:
        """Keep objects, given with their ids."""
        fresh: list[bytes] = []

        def missing() -> Iterator[Object]:
            for name, each in objects:
                if name not in self._own:
                    fresh.append(name)
                    yield each

        for pack in packs_of(missing(), self.object_format):
            # Nothing is borrowed here: see `borrowed`.
            extra = {"GIT_DIR": str(self.directory)}
            words = ["index-pack", "--stdin"]
            Question(words, cwd=self.directory, extra=extra, stdin=pack).answer()
        self._own.update(fresh)

    def crowded(self) -> bool:
        """Whether its own objects are so many that they should be dropped."""
        sizes = _packed(self.directory)
        return len(sizes) > 2 * PACKS or sum(sizes) > PACKED_BYTES

    def drop_objects(self) -> None:
        self._own.clear()
        for place in (self.directory / "objects" / "pack").iterdir():
            place.unlink(missing_ok=True)


def size_of(directory: Path) -> int:
    """About how many bytes a private directory takes. Whoever owns it may be at work in it, or
    just remove it."""
    return sum(_sizes(directory)) + sum(_packed(directory))


def _packed(directory: Path) -> list[int]:
    """The sizes of its packs and their indexes."""
    return _sizes(directory / "objects" / "pack")


def _sizes(folder: Path) -> list[int]:
    """The sizes of the files in a folder, but for those that go meanwhile."""
    sizes = []
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):
                if entry.is_file():
                    sizes.append(entry.stat().st_size)
    return sizes


def config_of(file: Path) -> dict[str, str]:
    """The values of a configuration file alone: what it includes is not read. Keys in lower case;
    raises GitError."""
    words = ("config", "--no-includes", "--file", str(file), "-z", "--list")
    found = Question(words, cwd=Path("/"), extra={"GIT_DIR": os.devnull}).answer()
    pairs = (entry.partition("\n") for entry in found.decode("utf-8", "replace").split("\0"))
    return {key.lower(): value for key, _, value in pairs if key}


def _create(directory: Path, object_format: str) -> None:
    """Make the directory elsewhere and give it its name at once."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
    try:
        for name in ("objects/pack", "objects/info", "refs", "info"):
            (place / name).mkdir(parents=True)
        (place / "HEAD").write_text("ref: refs/heads/none\n")
        (place / "info" / "attributes").write_text(_ATTRIBUTES)
        (place / "config").write_text(_config(place, object_format))
        shutil.rmtree(directory, ignore_errors=True)
        place.rename(directory)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _config(place: Path, object_format: str) -> str:
    """What `git init` would write here."""
    lines = ["[core]", "repositoryformatversion = 1", "bare = true", "filemode = true"]
    if (place / "hEaD").exists():
        lines.append("ignorecase = true")
    if sys.platform == "darwin":
        lines.append("precomposeunicode = true")
    lines += ["[extensions]", f"objectformat = {object_format}"]
    return "\n".join(lines) + "\n"
