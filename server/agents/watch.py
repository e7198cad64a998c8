"""A running agent, watched until it has ended or must be ended.

What is watched: its output file, its pass at the relay (which sees what the output hides), the
limits of its process tree, and podium's own clocks.
"""

from collections import deque
from collections.abc import Sequence

from protocol.frames import FlowRunStepNotice
from protocol.resources import Level, SelfTest
from server.addresses import host_of
from server.agents.containment.process import AgentProcess
from server.agents.containment.self_test import SelfTests
from server.agents.reasons import FailureReason, failure
from server.agents.relay.passes import Notice, Pass
from server.agents.stream_json import StreamParser
from server.ports import AgentFailure, AgentFrame, AgentOrder, Clock, Emit

FIRST_NOTICE, NEXT_NOTICE = 20.0, 60.0
"""Seconds of silence before it is shown (reading a long prompt takes longer, and is no stall), and
between two further notices."""
MAX_NOTICES = 32
"""Of the relay, waiting to be told."""
COULD = {
    Level.FILESYSTEM: "write into the copy or see podium's files",
    Level.NETWORK: "reach the host's network",
    Level.PROCESSES: "reach a process of the host",
}
"""What an agent could do where a level did not hold."""


class Watcher:
    """Follows one attempt and emits its frames. `failure` says why it must be ended."""

    def __init__(
        self, *, order: AgentOrder, parser: StreamParser, emit: Emit, clock: Clock, tested: bool
    ) -> None:
        """`tested`: the agent's first act is to report what it tried from inside."""
        self._order = order
        self._parser = parser
        self._emit = emit
        self._clock = clock
        self._tested = tested
        self._notices: deque[Notice] = deque(maxlen=MAX_NOTICES)
        self._began = clock.monotonic()
        self._last_output = self._began
        self._next_notice = FIRST_NOTICE
        self._own: AgentFailure | None = None

    def tell(self, notice: Notice) -> None:
        """Take a notice of the relay; it is emitted with the next look."""
        self._notices.append(notice)

    async def follow(self, process: AgentProcess, given: Pass) -> AgentFailure | None:
        """Return when the agent has ended and all was read, or with why it must be killed."""
        while True:
            ended = process.exit_code is not None
            data = await process.read()
            if data:
                await self._take(data, given)
            await self._tell_notices()
            if found := self._failure(process, given):
                return found
            if ended and not data:
                return None
            if not data:
                await self._look_at_clocks(given)

    def _failure(self, process: AgentProcess, given: Pass) -> AgentFailure | None:
        """The first thing that is known to be wrong, the gravest first."""
        return (
            escaped(given.self_tests)
            or self._parser.failure
            or given.failure
            or process.exceeded
            or self._own
        )

    async def _take(self, data: bytes, given: Pass) -> None:
        self._last_output = self._clock.monotonic()
        self._next_notice = FIRST_NOTICE
        frames = self._parser.feed(data)
        if self._parser.init is not None and not given.is_open:
            self._let_in(given)
        if frames:
            # Returns after the commit: a slow log slows the reading, never the memory.
            await self._emit(frames)

    def _let_in(self, given: Pass) -> None:
        """The model is asked only once the agent has shown to be the one that was wanted."""
        if self._parser.failure is not None or escaped(given.self_tests):
            return
        if self._tested and given.self_tests is None:
            message = "the agent started without saying what it could reach; it was stopped"
            self._own = failure(FailureReason.SELF_TEST_MISSING, message)
            return
        given.open()

    # --- clocks ---------------------------------------------------------------------------------

    async def _look_at_clocks(self, given: Pass) -> None:
        limits = self._order.limits
        now = self._clock.monotonic()
        # From when a request was sent on: the time that a tool took before it is not the model's.
        sign = max(self._last_output, given.last_sign, given.asked_at or 0.0)
        cause, words = self._cause(given)
        if now - self._began >= limits.total_seconds:
            message = f"not done after {limits.total_seconds:.0f} s: {words}"
            self._own = failure(FailureReason.TOTAL_TIMEOUT, message)
        elif not given.answered and now - self._began >= limits.first_byte_seconds:
            message = f"no answer began within {limits.first_byte_seconds:.0f} s: {words}"
            self._own = failure(FailureReason.FIRST_BYTE_TIMEOUT, message)
        elif given.answered and now - sign >= limits.idle_seconds:
            message = f"no sign of life for {limits.idle_seconds:.0f} s: {words}"
            self._own = failure(FailureReason.IDLE_TIMEOUT, message)
        elif (silent := now - self._last_output) >= max(self._next_notice, limits.prefill_seconds):
            self._next_notice = silent + NEXT_NOTICE
            await self._tell_silence(cause, words, silent=silent, alive=now - sign < FIRST_NOTICE)

    def _cause(self, given: Pass) -> tuple[str, str]:
        """What is waited for: a stable name, and words for a person."""
        host = host_of(self._order.endpoint.base_url)
        if given.waiting:
            return "waiting_for_model", f"waiting for the model at {host}"
        if self._parser.init is None:
            return "starting", "the agent is still starting"
        if tool := self._parser.running_tool:
            return "tool_running", f"the agent's {tool} is running"
        return "no_bytes_at_relay", "the agent asks the model nothing and says nothing"

    async def _tell_silence(self, cause: str, words: str, *, silent: float, alive: bool) -> None:
        data = {"cause": cause, "seconds": round(silent)}
        if alive:
            # The agent shows a tool's arguments, such as its result, only when they are whole.
            message = f"the model is writing what is shown when it is whole ({silent:.0f} s so far)"
            await self._emit([self._notice("working", message, data)])
        else:
            message = f"{words}: nothing for {silent:.0f} s"
            await self._emit([self._notice("stalled", message, data)])

    # --- notices --------------------------------------------------------------------------------

    async def _tell_notices(self) -> None:
        frames: Sequence[AgentFrame] = [
            self._notice(notice.code, notice.message, notice.data) for notice in self._notices
        ]
        self._notices.clear()
        if frames:
            await self._emit(frames)

    def _notice(self, code: str, message: str, data: dict[str, object]) -> FlowRunStepNotice:
        ref = self._order.ref
        return FlowRunStepNotice(
            run_id=ref.run_id,
            step_id=ref.step_id,
            attempt=ref.attempt,
            code=code,
            message=message,
            data=data,
        )


def escaped(tests: SelfTests | None) -> AgentFailure | None:
    """What an agent could do from inside its containment that it must not be able to do."""
    if tests is None:
        return None
    could = [words for level, words in COULD.items() if tests.by_level[level] is SelfTest.SUCCEEDED]
    if not could:
        return None
    message = f"from inside its containment the agent could {' and '.join(could)}"
    return failure(FailureReason.READ_ONLY_UNPROVEN, message)
