"""One attempt's permission to ask the model, and what is known of its asking."""

import asyncio
import hmac
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from msgspec import Struct

from protocol.resources import Usage
from server.addresses import host_of
from server.agents.containment.self_test import SelfTests
from server.agents.reasons import FailureReason, failure
from server.agents.relay.meter import Flaw, Meter
from server.agents.relay.rules import Admission, Asked, Refusal, context_cut, estimated
from server.logs import logger
from server.ports import AgentFailure, Clock

log = logger(__name__)

IN_FLIGHT = 2
"""Requests of one pass at a time; the agent makes one."""
SURPRISES = 16
CLOSE_SECONDS = 2.0
GATE_SECONDS = 20.0


class Notice(Struct, frozen=True, kw_only=True):
    """Something that a person should see while the attempt goes on. `code` is the reason."""

    code: str
    message: str
    data: dict[str, Any]


class Flight:
    """One request while it is served: an async context, which `abort` ends with TimeoutError."""

    def __init__(self) -> None:
        self.answered = False
        """The agent has its whole answer."""
        self.aborted = False
        self._scope = asyncio.timeout(None)
        self._inside = False

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        self._inside = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inside = False
        await self._scope.__aexit__(kind, error, trace)

    def abort(self) -> None:
        """From whatever task, any number of times; a request that has ended is left alone."""
        if self._inside and not self.aborted:
            self.aborted = True
            self._scope.reschedule(0)


class Pass:
    """What one attempt may ask and has asked. Its owner reads it, and closes it at the end."""

    def __init__(
        self,
        admission: Admission,
        tell: Callable[[Notice], None],
        *,
        clock: Clock,
        forget: Callable[["Pass"], None],
    ) -> None:
        self.admission = admission
        self.token = secrets.token_urlsafe(32)
        """The only secret that the agent ever sees."""
        self.last_sign = clock.monotonic()
        """When the model last sent data, by the clock; at first, when the pass was made."""
        self.asked_at: float | None = None
        """When the request that is at the endpoint now was sent there."""
        self.answered = False
        """The model has sent data at least once."""
        self.requests = 0
        """Requests that were let through; repeats by the relay do not count."""
        self.finish_reasons: list[str] = []
        """Of each answer that began, in order; `none` for one that broke off."""
        self.failure: AgentFailure | None = None
        """The first thing for which the attempt must end at once. It is set before anything of the
        answer concerned is passed on; the agent's request then stays open until the pass closes."""
        self.changed = asyncio.Event()
        """Set when `failure` is."""
        self.self_tests: SelfTests | None = None
        self.surprises: list[str] = []
        """What the agent asked for that is not the model's, as `GET /v1/models`; at most 16."""
        self.closed = False
        self._tell = tell
        self._clock = clock
        self._forget = forget
        self._told: set[str] = set()
        self._input = self._output = self._cached = self._estimated = 0
        self._counted = False
        self._flights: set[Flight] = set()
        self._gate = asyncio.Event()
        if not admission.held:
            self._gate.set()
        self._landed = asyncio.Event()
        self._landed.set()

    @property
    def waiting(self) -> bool:
        """A request is at the endpoint now."""
        return self.asked_at is not None

    @property
    def usage(self) -> Usage:
        """What the endpoint counted, over all answers."""
        return Usage(
            input_tokens=self._input,
            output_tokens=self._output,
            cached_tokens=self._cached,
            requests=self.requests,
        )

    async def close(self) -> None:
        """Make the token useless and end what is in flight. Returns when nothing is left of it (at
        most 2 s); may be called again."""
        self.closed = True
        self._forget(self)
        for flight in self._flights:
            flight.abort()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._landed.wait()
        except TimeoutError:
            self.log("relay_close_slow")

    @property
    def is_open(self) -> bool:
        """Whether requests go on to the endpoint."""
        return self._gate.is_set()

    def open(self) -> None:
        """Let held requests go on, and all later ones."""
        self._gate.set()

    # --- what follows is the relay's ------------------------------------------------------------

    def knows(self, token: str) -> bool:
        """In constant time."""
        return hmac.compare_digest(self.token.encode(), token.encode())

    async def entered(self) -> bool:
        """Wait until requests may go on; False when the owner takes longer than 20 s."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GATE_SECONDS):
                await self._gate.wait()
        return self.is_open

    @contextmanager
    def flight(self) -> Iterator[Flight | None]:
        """A request's place; None when there are too many."""
        if sum(not flight.answered for flight in self._flights) >= IN_FLIGHT:
            yield None
            return
        flight = Flight()
        self._flights.add(flight)
        self._landed.clear()
        try:
            yield flight
        finally:
            self._flights.discard(flight)
            if not self._flights:
                self._landed.set()

    def fail(self, why: AgentFailure) -> None:
        """Record the first failure and wake the owner."""
        if self.failure is None:
            self.failure = why
            self.log("relay_failure", reason=why.reason)
            self.changed.set()

    def refuse(self, refusal: Refusal) -> None:
        """End the attempt for what its agent asked; only with a reason of the table."""
        self.fail(failure(FailureReason(refusal.reason), refusal.why))

    def surprise(self, what: str) -> None:
        if len(self.surprises) < SURPRISES:
            self.surprises.append("".join(c if c.isprintable() else "?" for c in what[:80]))
            self.log("relay_surprise")

    def log(self, event: str, **more: str) -> None:
        """Ids only: what an agent says or is told is never logged."""
        ref = self.admission.ref
        log.warning(event, run_id=ref.run_id, step_id=ref.step_id, attempt=ref.attempt, **more)

    def budget(self) -> Refusal | None:
        """Why there may be no further request."""
        most, tokens = self.admission.requests, self.admission.total_tokens
        if self.requests >= most:
            why = f"the attempt has used its {most} model calls without delivering a result"
            return Refusal(403, FailureReason.BUDGET_EXHAUSTED, why)
        if tokens is not None and self._input + self._output + self._estimated >= tokens:
            why = f"the attempt has used its {tokens} tokens without delivering a result"
            return Refusal(403, FailureReason.BUDGET_EXHAUSTED, why)
        return None

    def sign(self) -> None:
        """Data of the model has come."""
        self.last_sign = self._clock.monotonic()
        self.answered = True

    def count(self, asked: Asked, meter: Meter) -> None:
        """Take an answer that is over, or has broken off, into the sums."""
        if meter.events:
            self.finish_reasons.append(meter.finish_reason or "none")
        tokens = meter.usage
        if tokens is None:
            guess = estimated(asked, events=meter.events)
            self._estimated += guess.input + guess.output
            return
        self._input += tokens.input
        self._output += tokens.output
        self._cached += tokens.cached

    def cut_context(self, asked: Asked, meter: Meter) -> Flaw | None:
        """The first answer that is counted tells whether the endpoint read the whole prompt. Later
        ones do not: what is cached by then is not always reported."""
        if self._counted or meter.usage is None or meter.finish_reason is None:
            return None
        self._counted = True
        if not context_cut(asked, meter.usage):
            return None
        read = f"{len(asked.body)} bytes were sent, it counts {meter.usage.input} tokens"
        return Flaw(FailureReason.CONTEXT_CUT, read)

    def tell(self, why: AgentFailure, *, seconds: float, repeat: int) -> None:
        """Say that the endpoint is asked again; the same cause is told once in an attempt."""
        if why.reason in self._told:
            return
        self._told.add(why.reason)
        host = host_of(self.admission.endpoint.base_url)
        self._tell(
            Notice(
                code=why.reason,
                message=f"{why.message}; podium asks again in {seconds:.0f} s",
                data={"host": host, "seconds": round(seconds, 1), "repeat": repeat},
            )
        )
