"""What every test gets: no blocking call in the loop, no skip where skips are forbidden."""

import asyncio
import os
from collections.abc import Iterator
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import uvicorn.server
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from server import logs

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
