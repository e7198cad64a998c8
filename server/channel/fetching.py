"""One read of the store on behalf of one socket, beside its writer."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Fetch(Generic[T]):
    """At most one read at a time: the writer never waits for the disk, and what was read and not
    sent yet is never more than one answer. `wake` is called when it is there."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._reading: asyncio.Task[T] | None = None

    @property
    def free(self) -> bool:
        return self._reading is None

    @property
    def ready(self) -> bool:
        return self._reading is not None and self._reading.done()

    def begin(self, read: Coroutine[Any, Any, T]) -> None:
        """Only when it is free."""
        self._reading = asyncio.create_task(read)
        self._reading.add_done_callback(self._done)

    def take(self) -> T:
        """The answer, once it is ready; raises what reading raised."""
        assert self._reading is not None
        answer, self._reading = self._reading, None
        return answer.result()

    def close(self) -> None:
        """Give up what is under way."""
        if self._reading is not None:
            self._reading.cancel()

    def _done(self, reading: asyncio.Task[T]) -> None:
        # Looked at here, so that a failure that nobody is left for is not told as forgotten.
        if not reading.cancelled():
            reading.exception()
        self._wake()
