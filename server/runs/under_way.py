"""Launches while they are made ready: one task for each key of a user, whoever waits for it.

A client whose socket dies asks again with the same key, perhaps over many sockets at once. The task
goes on meanwhile, and whoever asks with its key waits for it instead of planning once more.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import UserId
from server.limits import LimitSettings
from server.ports import Clock
from server.rates import Rates
from server.stopping import Gate, Stopping

T = TypeVar("T")

STOP_SECONDS = 1.0


class Keyed(NamedTuple):
    """A launch under way that can be asked for again."""

    body_hash: str
    task: "asyncio.Task[Any]"


class UnderWay:
    """Owns the tasks. A closed `gate` lets no new one in; `live` counts the runs of a user that
    have not ended."""

    def __init__(
        self, limits: LimitSettings, *, clock: Clock, gate: Gate, live: Callable[[UserId], int]
    ) -> None:
        self._limits = limits
        self._gate = gate
        self._live = live
        self.rates = Rates(
            "launches",
            burst=limits.launch_burst,
            per_second=limits.launches_per_second,
            clock=clock,
        )
        self._keyed: dict[tuple[UserId, str], Keyed] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._of: Counter[UserId] = Counter()

    @property
    def count(self) -> int:
        return len(self._tasks)

    async def wait_for(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        *,
        user: UserId,
        key: str | None,
        body_hash: str,
    ) -> tuple[T, bool]:
        """The result of the work, and whether it was under way by this key already; else it is
        begun.

        Who is cancelled while waiting leaves the work alone. Raises ProtocolError: as the work
        does, `key_conflict` when the key is under way with another body, `busy` when too much is,
        and Stopping when the server stops before the work is done.
        """
        keyed = None if key is None else self._keyed.get((user, key))
        if keyed is not None and keyed.body_hash != body_hash:
            raise key_conflict()
        task = keyed.task if keyed else self._begin(work, user, key, body_hash)
        await asyncio.wait([task])
        if task.cancelled():
            raise Stopping
        return task.result(), keyed is not None

    def admit(self, user: UserId, *, new_run: bool = True) -> None:
        """Called by work that is not the repeat of what was done before. Raises ProtocolError when
        the server stops, or when the user launches too fast or has too many runs already."""
        self._gate.check()
        runs = self._live(user) + self._of[user] - 1
        if new_run and runs >= self._limits.runs_per_user:
            raise ProtocolError(
                ErrorCode.BUSY,
                f"{runs} of your runs have not ended",
                hint="wait for one to end, or cancel one",
                retry_after_ms=10_000,
            )
        self.rates.take(user)

    async def stop(self) -> None:
        """Give up what is not durable yet: who waits for it is told to ask again. What is being
        stored is stored."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)

    def _begin(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        user: UserId,
        key: str | None,
        body_hash: str,
    ) -> "asyncio.Task[T]":
        if self._of[user] >= self._limits.launches_under_way:
            raise ProtocolError(
                ErrorCode.BUSY,
                f"{self._of[user]} of your launches are under way",
                hint="wait for an answer before asking more",
                retry_after_ms=1_000,
            )
        task = asyncio.create_task(work(), name="launch")
        self._tasks.add(task)
        self._of[user] += 1
        if key is not None:
            self._keyed[user, key] = Keyed(body_hash, task)
        task.add_done_callback(lambda task: self._ended(task, user, key))
        return task

    def _ended(self, task: "asyncio.Task[Any]", user: UserId, key: str | None) -> None:
        self._tasks.discard(task)
        self._of[user] -= 1
        if not self._of[user]:
            del self._of[user]
        if key is not None:
            del self._keyed[user, key]
        if not task.cancelled():
            task.exception()  # somebody may wait for it, or nobody: asyncio need not complain


def key_conflict() -> ProtocolError:
    return ProtocolError(
        ErrorCode.KEY_CONFLICT,
        "this key was used for another launch",
        field="key",
        hint="use a new key for a new launch",
    )
