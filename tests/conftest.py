"""What every test gets: no blocking call in the loop, no skip where skips are forbidden, and its
turn where two processes run the tests."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import uvicorn.server
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from server import logs
from tests.turns import Turns

# A busy machine is no finding. In CI the examples are always the same, elsewhere ever new ones:
# what a developer's run finds becomes an example or a test, and does not hold up a change of
# somebody else.
settings.register_profile(
    "podium",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("podium")


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """The product's own logs; structlog's default reads source files to show a traceback."""
    logs.configure(level="warning", as_json=True)


@pytest.fixture(scope="session", autouse=True)
def quick_uvicorn() -> Iterator[None]:
    """uvicorn looks ten times a second whether it is to end, and whether it has: for which each of
    a thousand servers in these processes would be waited for."""

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))

    with patch.object(
        uvicorn.server, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep})
    ):
        yield


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """A blocking call of ours inside the event loop fails the test."""
    with blockbuster_ctx(["server", "flows", "protocol"]) as blockbuster:
        # What measures coverage has a lock of its own, which is no call of ours.
        acquire = blockbuster.functions["threading.Lock.acquire"]
        acquire.can_block_in("coverage/collector.py", "lock_data")
        yield blockbuster


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With PODIUM_NO_SKIPS a skipped test is a failed one: CI has everything the tests need."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("PODIUM_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but nothing may be skipped here: {report.longrepr}"


TURNS = pytest.StashKey[Turns]()
FOLDER = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the process that starts the others: tell each the folder where they take turns."""
    if FOLDER not in node.config.stash:
        folder = tempfile.TemporaryDirectory(prefix="podium-turns-")
        node.config.stash[FOLDER] = folder
        node.config.add_cleanup(folder.cleanup)
    node.workerinput["turns"] = node.config.stash[FOLDER].name


def pytest_configure(config: pytest.Config) -> None:
    """In each that was told so; one process alone waits for nobody."""
    told = getattr(config, "workerinput", {})
    if "turns" in told:
        config.stash[TURNS] = turns = Turns(Path(told["turns"]))
        config.add_cleanup(turns.close)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """First of all, so that a wait for the turn is none of the time that the test may take."""
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    with turns.taken(alone=item.get_closest_marker("alone") is not None):
        return (yield)
