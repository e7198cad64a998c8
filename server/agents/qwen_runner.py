"""The real agent: whether it can be trusted here, and one attempt after another."""

import asyncio
import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec

from protocol.resources import Level
from server.agents import installation
from server.agents.attempt import Attempt
from server.agents.containment import ladder
from server.agents.containment.cage import Found
from server.agents.containment.limits import Limits
from server.agents.containment.orphans import reap_orphans
from server.agents.installation import Installation
from server.agents.probe import Prober
from server.agents.reasons import FailureReason
from server.agents.relay.server import Relay
from server.logs import logger
from server.ports import (
    AgentOrder,
    AgentResult,
    AgentUnavailable,
    AttemptCancelled,
    Clock,
    Emit,
    ModelEndpoint,
    Probe,
)

log = logger(__name__)

AGAIN_SECONDS = 60.0
"""After so long a host that lacked containment is examined anew."""


class Guards(NamedTuple):
    """What stands around every attempt."""

    limits: Limits = Limits()
    contained: bool = True
    """Contain agents as far as the host allows."""
    required: bool = False
    """Start none that is not contained at every level."""


class QwenRunner:
    """Keeps the promises of `ports.AgentRunner` with the pinned qwen."""

    def __init__(
        self,
        data: Path,
        *,
        clock: Clock,
        guards: Guards = Guards(),  # noqa: B008 - immutable
        probe_seconds: float = 120.0,
        keep_attempts: bool = False,
        installed: Installation | None = None,
    ) -> None:
        """`installed` None: the one that `installation.find` finds, once it is needed."""
        self._data = data
        self._clock = clock
        self._guards = guards
        self._keep = keep_attempts
        self._prober = Prober(clock, seconds=probe_seconds)
        self._installed = installed
        self._relay = Relay(data / "relay", clock=clock)
        self._found = Found(reason="containment is switched off")
        self._examined_at: float | None = None
        self._one_at_a_time = asyncio.Lock()
        self._trying: asyncio.Task[None] | None = None

    async def start(self) -> None:
        reaped = await asyncio.to_thread(reap_orphans, self._data)
        if reaped:
            log.warning("orphans_reaped", trees=reaped)
        if not self._keep:
            await asyncio.to_thread(shutil.rmtree, self._data / "attempts", ignore_errors=True)
        await self._relay.start()
        self._trying = asyncio.create_task(self._try_containment(), name="containment")

    async def stop(self) -> None:
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.wait([self._trying])
        await self._relay.stop()

    async def _try_containment(self) -> None:
        """At the start, beside it: what is missing is said before anybody launches."""
        try:
            found = await self.containment()
        except AgentUnavailable as error:
            log.warning("agent_unavailable", reason=error.reason, hint=error.hint)
            return
        except Exception:
            log.exception("containment_not_tried")  # each launch tries it again
            return
        if not found.complete:
            levels, required = [level.value for level in found.levels], self._guards.required
            hint = found.hint
            log.warning(
                "not_contained", levels=levels, required=required, why=found.reason, hint=hint
            )

    async def check(self) -> str:
        installed = await self._installation()
        found = await self.containment()
        if self._guards.required and not found.complete:
            lacking = ", ".join(level for level in Level if level not in found.levels)
            raise AgentUnavailable(
                "containment_missing",
                f"agents must be contained here, and this host lacks {lacking}: {found.reason}",
                hint=found.hint,
            )
        return installed.version

    def require_containment(self) -> None:
        self._guards = self._guards._replace(required=True)

    async def containment(self) -> Found:
        """What of it this host allows; tried once, and again while something is missing."""
        if not self._guards.contained:
            return self._found
        installed = await self._installation()
        async with self._one_at_a_time:
            now = self._clock.monotonic()
            due = self._examined_at is None or now - self._examined_at >= AGAIN_SECONDS
            if due and not self._found.complete:
                package = installed.cli.parent
                self._found = await ladder.examine(installed.node, package)
                self._examined_at = now
        return self._found

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        return await self._prober.probe(endpoint)

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        await self.check()
        attempt = Attempt(
            order,
            emit,
            installed=await self._installation(),
            found=await self.containment(),
            limits=self._guards.limits,
            relay=self._relay,
            data=self._data,
            clock=self._clock,
        )
        try:
            return await self._tidied(attempt)
        except asyncio.CancelledError as cancelled:
            if isinstance(cancelled, AttemptCancelled) or attempt.came is None:
                raise
            # It came while all that was left was to put things away: what was seen stands.
            raise AttemptCancelled(_cut_late(attempt.came)) from cancelled

    async def _tidied(self, attempt: Attempt) -> AgentResult:
        try:
            return await attempt.run()
        finally:
            if not self._keep:
                directory = attempt.places.directory
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _installation(self) -> Installation:
        if self._installed is None:
            self._installed = await asyncio.to_thread(installation.find)
        return self._installed


def _cut_late(came: AgentResult) -> AgentResult:
    """What is told of an attempt that had its result when it was cancelled."""
    wrong = came.failure
    if wrong is not None and wrong.reason == FailureReason.READ_ONLY_UNPROVEN:
        return came
    return msgspec.structs.replace(came, failure=None)
