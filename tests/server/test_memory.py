"""What memory there is: the machine's, and no more than the control groups leave."""

from pathlib import Path

import pytest

from server.memory import available_memory

MIB = 1024 * 1024


def machine(place: Path, *, available_kib: int, group: str) -> Path:
    (place / "self").mkdir(parents=True)
    (place / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available_kib} kB\n")
    (place / "self" / "cgroup").write_text(f"0::{group}\n")
    return place


def limited(folder: Path, limit: str, used: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")


@pytest.mark.parametrize(
    ("own", "parent", "left"),
    [
        (("max", 0), ("max", 0), 1_000 * MIB),
        ((str(600 * MIB), 100 * MIB), ("max", 0), 500 * MIB),
        (("max", 0), (str(300 * MIB), 100 * MIB), 200 * MIB),
        ((str(100 * MIB), 200 * MIB), ("max", 0), 0),
    ],
)
def test_the_smallest_limit_holds(
    tmp_path: Path, own: tuple[str, int], parent: tuple[str, int], left: int
) -> None:
    proc = machine(tmp_path / "proc", available_kib=1_000 * 1024, group="/a/b")
    limited(tmp_path / "groups" / "a" / "b", *own)
    limited(tmp_path / "groups" / "a", *parent)
    assert available_memory(proc=proc, groups=tmp_path / "groups") == left


def test_a_machine_that_does_not_tell(tmp_path: Path) -> None:
    assert available_memory(proc=tmp_path / "none", groups=tmp_path / "none") is None


def test_this_machine() -> None:
    found = available_memory()
    assert found is None or found > 0
