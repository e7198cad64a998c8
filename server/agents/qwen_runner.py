"""The real agent: one qwen process per attempt, watched from its first byte to its last process."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from protocol.frames import Channel, FlowRunStepDelta, FlowRunStepNotice
from protocol.resources import Containment, Proof, Receipt, SelfTest
from server.agents import installation, invocation
from server.agents.cage import unconfined
from server.agents.installation import Installation
from server.agents.invocation import Places
from server.agents.limits import Limits, named
from server.agents.orphans import reap_orphans
from server.agents.outcome import Delivered, outcome
from server.agents.probe import Prober, host_of
from server.agents.process import AgentProcess
from server.agents.receipt import Seen, look
from server.agents.stream_json import StreamParser
from server.logs import logger
from server.ports import (
    AgentFailure,
    AgentFrame,
    AgentOrder,
    AgentResult,
    Clock,
    Emit,
    ModelEndpoint,
    Probe,
)

log = logger(__name__)

OUTPUT_LIMIT = 64 * 1024 * 1024
FIRST_NOTICE, NEXT_NOTICE = 20.0, 60.0
"""Seconds of silence before it is shown, and between two further notices."""


class QwenRunner:
    """Keeps the promises of `ports.AgentRunner` with the pinned qwen."""

    def __init__(
        self,
        data: Path,
        *,
        clock: Clock,
        probe_seconds: float = 120.0,
        keep_attempts: bool = False,
        installed: Installation | None = None,
    ) -> None:
        """`installed` None: the one that `installation.find` finds, once it is needed."""
        self._data = data
        self._clock = clock
        self._keep = keep_attempts
        self._prober = Prober(clock, seconds=probe_seconds)
        self._installed = installed

    async def check(self) -> str:
        return (await self._installation()).version

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        return await self._prober.probe(endpoint)

    async def reap(self) -> None:
        """End what an earlier server left running, and drop its attempts' files."""
        reaped = await asyncio.to_thread(reap_orphans, self._data)
        if reaped:
            log.warning("orphans_reaped", trees=reaped)
        if not self._keep:
            await asyncio.to_thread(shutil.rmtree, self._data / "attempts", ignore_errors=True)

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        installed = await self._installation()
        ref = order.ref
        directory = self._data / "attempts" / ref.run_id / ref.step_id / str(ref.attempt)
        places = Places(directory)
        try:
            await asyncio.to_thread(_lay_out, places, order)
            before = await asyncio.to_thread(look, order.tree, order.repository)
            watch = await self._watch(installed, order, places, emit)
            after = await asyncio.to_thread(look, order.tree, order.repository)
        finally:
            if not self._keep:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        return await _result(order, watch, before=before, after=after, emit=emit)

    async def _installation(self) -> Installation:
        if self._installed is None:
            self._installed = await asyncio.to_thread(installation.find)
        return self._installed

    async def _watch(
        self, installed: Installation, order: AgentOrder, places: Places, emit: Emit
    ) -> "Watch":
        parser = StreamParser(order.ref, model=order.endpoint.model, tree=str(order.tree))
        limits = Limits()
        launch = unconfined(
            invocation.command(installed, order, places),
            invocation.environment(installed, order, places),
            limits,
        )
        try:
            process = await AgentProcess.start(launch, places, limits=limits, clock=self._clock)
        except OSError as error:
            message = f"the agent could not be started: {error.strerror}"
            parser.failure = AgentFailure(reason="spawn_failed", message=message, retryable=True)
            return Watch(parser, None, "")
        try:
            await process.prompt(order.prompt.user)
            await _Tail(process, parser, order, emit, self._clock).follow()
        finally:
            await process.kill()
        stderr = await process.stderr_tail()
        parser.failure = (
            process.exceeded or parser.failure or named(process.exit_code, stderr, limits)
        )
        return Watch(parser, process.exit_code, stderr)


class Watch(NamedTuple):
    """What was seen of a process, from its first byte to its end."""

    parser: StreamParser
    exit_code: int | None
    """None when it never started."""
    stderr: str


class _Tail:
    """Follows the output file, emits frames, and keeps the clocks. `follow` returns when the agent
    has ended and all was read, or when it must be killed (`parser.failure` says why)."""

    def __init__(
        self,
        process: AgentProcess,
        parser: StreamParser,
        order: AgentOrder,
        emit: Emit,
        clock: Clock,
    ) -> None:
        self._process = process
        self._parser = parser
        self._order = order
        self._emit = emit
        self._clock = clock
        self._began = clock.monotonic()
        self._last_sign = self._began
        self._notice_at = FIRST_NOTICE

    async def follow(self) -> None:
        while self._parser.failure is None:
            ended = self._process.exit_code is not None
            data = await self._process.read()
            if data:
                await self._take(data)
            elif ended:
                return
            else:
                await self._check_clocks()

    async def _take(self, data: bytes) -> None:
        self._last_sign = self._clock.monotonic()
        self._notice_at = FIRST_NOTICE
        frames = self._parser.feed(data)
        if frames:
            # Returns after the commit: a slow log slows the reading, never the memory.
            await self._emit(frames)
        if self._process.read_so_far > OUTPUT_LIMIT:
            self._fail("output_limit", "the agent wrote more than 64 MB")

    async def _check_clocks(self) -> None:
        limits = self._order.limits
        now = self._clock.monotonic()
        silent = now - self._last_sign
        # init is the CLI's own first line: the model's first sign is the second.
        answered = self._parser.events > 1
        if now - self._began >= limits.total_seconds:
            self._fail("total_timeout", f"not done after {limits.total_seconds:.0f} s")
        elif not answered and silent >= limits.first_byte_seconds:
            seconds = limits.first_byte_seconds
            message = f"the model did not begin to answer within {seconds:.0f} s"
            self._fail("first_byte_timeout", message, retryable=True)
        elif answered and silent >= limits.idle_seconds:
            message = f"no sign of the agent for {limits.idle_seconds:.0f} s"
            self._fail("idle_timeout", message, retryable=True)
        elif silent >= self._notice_at:
            self._notice_at = silent + NEXT_NOTICE
            await self._tell_silence(silent)

    def _fail(self, reason: str, message: str, *, retryable: bool = False) -> None:
        self._parser.failure = AgentFailure(reason=reason, message=message, retryable=retryable)

    async def _tell_silence(self, seconds: float) -> None:
        ref = self._order.ref
        host = host_of(self._order.endpoint.base_url)
        notice = FlowRunStepNotice(
            run_id=ref.run_id,
            step_id=ref.step_id,
            attempt=ref.attempt,
            code="stalled",
            message=f"waiting for the model at {host}: nothing for {seconds:.0f} s",
            data={"cause": "waiting_for_model", "seconds": round(seconds)},
        )
        await self._emit([notice])


def _lay_out(places: Places, order: AgentOrder) -> None:
    """Write the attempt's files; a directory left by a crash is replaced."""
    shutil.rmtree(places.directory, ignore_errors=True)
    places.home.mkdir(parents=True, mode=0o700)
    places.cwd.mkdir(mode=0o700)
    places.settings.write_text(json.dumps(invocation.settings(order)), "utf-8")
    places.schema.write_text(json.dumps(order.schema), "utf-8")


async def _result(
    order: AgentOrder, watch: Watch, *, before: Seen, after: Seen, emit: Emit
) -> AgentResult:
    parser = watch.parser
    came: Delivered | AgentFailure
    if watch.exit_code is None and parser.failure is not None:
        came = parser.failure
    else:
        came = outcome(parser, exit_code=watch.exit_code or 0, stderr=watch.stderr)
    if before.tree != after.tree:
        came = AgentFailure(
            reason="read_only_unproven",
            message="the pinned copy changed while the agent ran; its result is not used",
        )
    if isinstance(came, AgentFailure) and watch.stderr:
        with suppress(Exception):
            await emit(_stderr_frames(order, watch.stderr))
    return AgentResult(
        raw=came.raw if isinstance(came, Delivered) else None,
        text=parser.text,
        failure=came if isinstance(came, AgentFailure) else None,
        usage=parser.usage,
        exit_code=watch.exit_code,
        receipt=_receipt(order, parser, before=before, after=after),
        denied_tools=len(parser.denials),
    )


def _stderr_frames(order: AgentOrder, text: str) -> Sequence[AgentFrame]:
    ref = order.ref
    return [
        FlowRunStepDelta(
            run_id=ref.run_id,
            step_id=ref.step_id,
            attempt=ref.attempt,
            channel=Channel.STDERR,
            offset=0,
            text=text[-4_000:],
        )
    ]


def _receipt(
    order: AgentOrder, parser: StreamParser, *, before: Seen, after: Seen
) -> Receipt | None:
    """What was seen. Uncontained, nothing tried to write, so nothing is proven."""
    if parser.init is None:
        return None
    return Receipt(
        agent="qwen",
        agent_version=parser.init.version,
        mode=parser.init.mode,
        tools=list(parser.init.tools),
        denials=parser.denials,
        host=host_of(order.endpoint.base_url),
        contained=Containment.NONE,
        write_probe=SelfTest.NOT_RUN,
        tree_before=before.tree,
        tree_after=after.tree,
        repository_before=before.repository,
        repository_after=after.repository,
        proven=Proof.NO,
    )
