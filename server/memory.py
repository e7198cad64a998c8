"""How much memory this machine has left, as far as it tells."""

from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def available_memory(*, proc: Path = _PROC, groups: Path = _GROUPS) -> int | None:
    """Bytes that new processes may take: what the kernel calls available, and no more than the
    control groups of this process have left. None where nothing tells (macOS)."""
    known = [*_of_the_machine(proc), *_of_the_groups(proc, groups)]
    return min(known) if known else None


def _of_the_machine(proc: Path) -> Iterator[int]:
    for line in _lines(proc / "meminfo"):
        words = line.split()
        if words[:1] == ["MemAvailable:"]:
            yield int(words[1]) * 1024


def _of_the_groups(proc: Path, groups: Path) -> Iterator[int]:
    """A limit may be set at any level; every one of them holds."""
    for line in _lines(proc / "self" / "cgroup"):
        number, _, name = line.partition("::")
        if number != "0":
            continue
        folder = groups / name.lstrip("/")
        while folder.is_relative_to(groups):
            limit, used = (_lines(folder / f"memory.{it}") for it in ("max", "current"))
            if limit and used and limit[0].isdecimal():
                yield max(0, int(limit[0]) - int(used[0]))
            folder = folder.parent


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
