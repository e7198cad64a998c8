"""The stop of a server: what it takes no more from then on, and when its clients may come back."""

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable

from protocol.errors import ErrorCode, ProtocolError
from server.logs import logger

log = logger(__name__)

BASE_MS = 1_000
"""Nobody comes back sooner: the next server has to start."""
PER_CLIENT_MS, MIN_WINDOW_MS, MAX_WINDOW_MS = 10, 1_000, 30_000
"""The window in which clients come back: at most 100 of them a second, up to 3,000 clients."""
EXIT_SECONDS = 14.0
"""From the first signal on; whoever waits for the server to end kills it after 15 s or more."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping(ProtocolError):
    """The refusal of a server that stops: the next one takes the same request."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.BUSY,
            "the server is stopping",
            hint="ask again when it is back",
            retry_after_ms=BASE_MS,
        )


class Gate:
    """Whether the server takes clients and work. Closed once, for good."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def check(self) -> None:
        """Raise Stopping when it is closed."""
        if self.closed:
            raise Stopping


def return_times(count: int) -> list[int]:
    """After how many milliseconds each of so many clients may come back.

    They are spread evenly over a window that grows with them, in random order: whoever connected
    first does not come back first, and no two seconds differ much.
    """
    window = min(MAX_WINDOW_MS, max(MIN_WINDOW_MS, count * PER_CLIENT_MS))
    chance = random.Random()  # noqa: S311 - no secret
    places = list(range(count))
    chance.shuffle(places)
    return [BASE_MS + int(window * (place + chance.random()) / count) for place in places]


class Signals:
    """SIGTERM and SIGINT: the first asks for the stop, the second ends the process at once.

    At once means as a crash would: agents die with the server, and what was committed is kept. The
    same happens EXIT_SECONDS after the first, so that no stop can hang.
    """

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._deadline: threading.Timer | None = None

    def listen(self, stop: Callable[[], None]) -> None:
        """From now on until `release`. `stop` is called once, and waits for nothing."""
        self._stop = stop
        loop = asyncio.get_running_loop()
        for name in SIGNALS:
            loop.add_signal_handler(name, self.take, name)

    def take(self, name: signal.Signals) -> None:
        if self._deadline is None:
            self.ask(name.name)
        else:
            log.warning("stopped_at_once", why=name.name)
            _die_of(name)

    def ask(self, why: str) -> None:
        """Begin the stop, unless it has begun."""
        if self._deadline is not None:
            return
        # A thread: a loop that hangs would not look at the time.
        self._deadline = threading.Timer(EXIT_SECONDS, _gave_up)
        self._deadline.daemon = True
        self._deadline.start()
        log.info("stopping", why=why)
        assert self._stop is not None
        self._stop()

    def release(self) -> None:
        """Back to what Python does; the stop has come to its end."""
        if self._deadline is not None:
            self._deadline.cancel()
        if self._stop is not None:
            for name in SIGNALS:
                asyncio.get_running_loop().remove_signal_handler(name)


def _die_of(name: signal.Signals) -> None:
    signal.signal(name, signal.SIG_DFL)
    os.kill(os.getpid(), name)


def _gave_up() -> None:
    log.error("stop_took_too_long", seconds=EXIT_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
