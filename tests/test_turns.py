"""The tests of one run take turns, in as many processes as there are."""

import fcntl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import TURNS
from tests.turns import FLOOR, GATE, Turns


@contextmanager
def taking_part(place: Path) -> Iterator[Turns]:
    turns = Turns(place)
    yield turns
    turns.close()


def waited_for(file: Path) -> None:
    """Until the kernel says that somebody waits for the lock."""
    inode = f":{file.stat().st_ino} "
    while not any(
        "->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()
    ):
        pass


@pytest.mark.timeout(20)
def test_who_is_to_be_alone_waits_for_the_others_and_goes_before_later_ones(tmp_path: Path) -> None:
    order: list[str] = []

    def take(name: str, *, alone: bool) -> None:
        with taking_part(tmp_path) as turns, turns.taken(alone=alone):
            order.append(name)

    with ThreadPoolExecutor() as pool, ExitStack() as first:
        turns = first.enter_context(taking_part(tmp_path))
        first.enter_context(turns.taken(alone=False))
        take("beside", alone=False)
        taken = [pool.submit(take, "alone", alone=True)]
        waited_for(tmp_path / FLOOR)
        taken.append(pool.submit(take, "later", alone=False))
        waited_for(tmp_path / GATE)
        assert order == ["beside"]
        first.close()
        for one in taken:
            one.result()
    assert order == ["beside", "alone", "later"]


def free(config: pytest.Config, kind: int) -> bool:
    """Whether another process could have its turn now."""
    with (config.stash[TURNS].folder / FLOOR).open("w") as floor:
        try:
            fcntl.flock(floor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.alone
def test_beside_a_test_that_measures_the_machine_goes_no_other(pytestconfig: pytest.Config) -> None:
    if TURNS in pytestconfig.stash:  # not where one process runs them all
        assert not free(pytestconfig, fcntl.LOCK_SH)


def test_beside_any_other_goes_another(pytestconfig: pytest.Config) -> None:
    if TURNS in pytestconfig.stash:
        assert free(pytestconfig, fcntl.LOCK_SH)
        assert not free(pytestconfig, fcntl.LOCK_EX)
