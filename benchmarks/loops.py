"""The event loop that a peer gets: the fastest that is installed."""

import asyncio
import importlib
from collections.abc import Callable


def fastest() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's, else asyncio's own."""
    try:
        loop: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
            "uvloop"
        ).new_event_loop
    except ImportError:
        return asyncio.new_event_loop
    return loop
