"""One attempt of one qwen process, from its files to its receipt."""

import asyncio
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from protocol.frames import Channel, FlowRunStepDelta
from protocol.resources import Level
from server.agents import invocation
from server.agents.containment import cage
from server.agents.containment.cage import Cage, Found, Launch
from server.agents.containment.limits import MIB, Limits, named
from server.agents.containment.orphans import identity
from server.agents.containment.process import AgentProcess, StartCancelled
from server.agents.copies.seen import Seen, look, since
from server.agents.installation import Installation
from server.agents.introduction import Expected
from server.agents.invocation import Door, Places
from server.agents.outcome import Delivered, outcome
from server.agents.profile import profile_of
from server.agents.proof import Evidence, proof
from server.agents.reasons import FailureReason, failure
from server.agents.relay.passes import Pass
from server.agents.relay.rules import Admission
from server.agents.relay.server import Relay
from server.agents.stream_json import StreamParser
from server.agents.watch import Watcher, escaped
from server.ports import (
    AgentFailure,
    AgentFrame,
    AgentOrder,
    AgentResult,
    AttemptCancelled,
    Clock,
    Emit,
)
from server.shielding import settled
from server.world import rfc3339

SPARE_REQUESTS = 8
"""Beyond the turns: the agent also asks to sum up a long conversation, and after a refusal."""
EVENT_BYTES = 512
"""Most bytes of an answer that one token is worth: each comes in an event of some 250 bytes."""
SPARE_BYTES = MIB
"""Of an answer, beyond what its tokens are worth."""


class Attempt:
    """One attempt, from its files to its receipt."""

    def __init__(
        self,
        order: AgentOrder,
        emit: Emit,
        *,
        installed: Installation,
        found: Found,
        limits: Limits,
        relay: Relay,
        data: Path,
        clock: Clock,
    ) -> None:
        ref = order.ref
        self.places = Places(data / "attempts" / ref.run_id / ref.step_id / str(ref.attempt))
        self._order = order
        self._emit = emit
        self._installed = installed
        self._found = found
        self._limits = limits
        self._relay = relay
        self._data = data
        self._clock = clock
        expected = Expected(version=installed.version, model=order.endpoint.model)
        self._parser = StreamParser(ref, expected=expected, tree=str(order.tree))
        self._process: AgentProcess | None = None
        self.came: AgentResult | None = None
        """What the attempt came to, once it is known; cleaning up may be left."""

    async def run(self) -> AgentResult:
        order = self._order
        await asyncio.to_thread(_lay_out, self._installed, self.places, order)
        before = await self._look()
        watcher = Watcher(
            order=order,
            parser=self._parser,
            emit=self._emit,
            clock=self._clock,
            tested=self._found.bwrap is not None,
        )
        given = self._relay.admit(_admission(self._installed, order), watcher.tell)
        try:
            ended = await self._watched(watcher, given)
            after = since(before, await self._look())
            return await self._result(ended, given, before=before, after=after)
        except asyncio.CancelledError as cancelled:
            if self._process is None:
                raise
            finding = asyncio.ensure_future(self._cut_short(given, before))
            await settled(finding)
            raise AttemptCancelled(finding.result()) from cancelled
        finally:
            await given.close()

    async def _cut_short(self, given: Pass, before: Seen) -> AgentResult:
        """What was seen of an attempt that was cancelled: its cost and its receipt."""
        await self._leave("the attempt was stopped")
        after = since(before, await self._look())
        ended = _Ended(None, at=self._ended_at())
        wrong = _broken(given, before, after)
        return self._account(wrong, ended, given, before=before, after=after)

    async def _look(self) -> Seen:
        order = self._order
        return await asyncio.to_thread(
            look, order.tree, order.repository, within=self.places.directory
        )

    async def _watched(self, watcher: Watcher, given: Pass) -> "_Ended":
        """From the spawn to the last process's end."""
        launch = await asyncio.to_thread(self._launch, given)
        try:
            process = await AgentProcess.start(
                launch, self.places, limits=self._limits, clock=self._clock
            )
        except OSError as error:
            message = f"the agent could not be started: {error.strerror}"
            return _Ended(failure(FailureReason.SPAWN_FAILED, message))
        except StartCancelled as cancelled:
            self._process = cancelled.process
            raise
        self._process = process
        wrong: AgentFailure | None = None
        # Beside the watch: an agent that does not read would stop every clock.
        prompting = asyncio.create_task(process.prompt(self._order.prompt.user))
        try:
            wrong = await watcher.follow(process, given)
        finally:
            prompting.cancel()
            await process.kill()
            await asyncio.wait([prompting])
        stderr = await process.stderr_tail()
        wrong = (
            wrong
            # A full output file is seen only when its writer is gone.
            or process.exceeded
            or named(process.exit_code, stderr, self._limits)
            or _self_test_failed(process.exit_code, stderr)
        )
        return _Ended(wrong, process.exit_code, stderr, self._ended_at())

    def _ended_at(self) -> str:
        """When the last process was gone; empty when there never was one."""
        if self._process is None or self._process.ended_at is None:
            return ""
        return rfc3339(self._process.ended_at)

    def _launch(self, given: Pass) -> Launch:
        installed, order, found = self._installed, self._order, self._found
        if found.bwrap is None:
            door = Door(self._relay.url, given.token)
            return cage.unconfined(
                invocation.command(installed, order, self.places),
                invocation.environment(installed, order, self.places, door),
                self._limits,
            )
        inside = cage.inside(installed)
        apart = Level.NETWORK in found.levels
        door = Door(cage.BASE_URL if apart else self._relay.url, given.token)
        return cage.confined(
            invocation.command(inside, order, cage.PLACES),
            invocation.environment(inside, order, cage.PLACES, door),
            found=found,
            cage=self._cage(),
        )

    def _cage(self) -> Cage:
        server, socket = identity(os.getpid()), self._relay.socket
        assert server is not None
        assert socket is not None
        return Cage(
            node=self._installed.node,
            package=self._installed.cli.parent,
            tree=self._order.tree,
            settings=self.places.settings,
            schema=self.places.schema,
            relay=socket,
            canary=urlsplit(self._relay.url).port or 0,
            # The local user's token, and the attempt's own folder, which holds other files too.
            hidden=(self._data / "token", self.places.directory),
            server=server,
            limits=self._limits,
        )

    async def _result(
        self, ended: "_Ended", given: Pass, *, before: Seen, after: Seen
    ) -> AgentResult:
        came = _broken(given, before, after) or _came(ended, self._parser)
        if isinstance(came, AgentFailure):
            await self._leave(f"{came.reason}: {came.message}", stderr=ended.stderr)
        return self._account(came, ended, given, before=before, after=after)

    def _account(
        self,
        came: Delivered | AgentFailure | None,
        ended: "_Ended",
        given: Pass,
        *,
        before: Seen,
        after: Seen,
    ) -> AgentResult:
        parser = self._parser
        evidence = Evidence(
            version=self._installed.version,
            endpoint=self._order.endpoint,
            init=parser.init,
            trusted=parser.failure is None,
            denials=parser.denials,
            found=self._found,
            tests=given.self_tests,
            before=before,
            after=after,
            ended_at=ended.at,
        )
        self.came = AgentResult(
            raw=came.raw if isinstance(came, Delivered) else None,
            text=parser.text,
            failure=came if isinstance(came, AgentFailure) else None,
            # The endpoint's own counts: what the agent reports lacks requests that broke off.
            usage=given.usage if given.requests else parser.usage,
            exit_code=ended.exit_code,
            receipt=proof(evidence) if ended.at else None,
            denied_tools=len(parser.denials),
        )
        return self.came

    async def _leave(self, why: str, *, stderr: str = "") -> None:
        """Tell of an end without a result: no tool is left running in the log."""
        frames: list[AgentFrame] = [*self._parser.abandoned(why)]
        if stderr:
            frames += _stderr_frames(self._order, stderr)
        if frames:
            with suppress(Exception):
                await self._emit(frames)


class _Ended(NamedTuple):
    """What was seen of a process."""

    wrong: AgentFailure | None
    """Why it was killed, or what its end alone says."""
    exit_code: int | None = None
    """None when it never started."""
    stderr: str = ""
    at: str = ""
    """When its last process was gone; empty when it never started."""


def _broken(given: Pass, before: Seen, after: Seen) -> AgentFailure | None:
    """What was written, or could have been, where nothing may be."""
    if could := escaped(given.self_tests):
        return could
    if before.tree != after.tree:
        message = "the pinned copy changed while the agent ran; its result is not used"
        return failure(FailureReason.READ_ONLY_UNPROVEN, message)
    return None


def _came(ended: _Ended, parser: StreamParser) -> Delivered | AgentFailure:
    if ended.wrong is not None:
        return ended.wrong
    return outcome(parser, exit_code=ended.exit_code or 0, stderr=ended.stderr)


def _self_test_failed(exit_code: int | None, stderr: str) -> AgentFailure | None:
    """The ends that the agent's own self-test makes, before its program starts."""
    if exit_code == cage.ESCAPED:
        said = stderr.strip().splitlines()[-1:] or ["it does not say how"]
        message = f"the agent was not contained: {said[0][:300]}"
        return failure(FailureReason.READ_ONLY_UNPROVEN, message)
    if exit_code == cage.UNREPORTED:
        message = "the agent's self-test could not be reported to the relay"
        return failure(FailureReason.SELF_TEST_MISSING, message)
    return None


def _admission(installed: Installation, order: AgentOrder) -> Admission:
    limits = order.limits
    window = limits.context_tokens or invocation.DEFAULT_WINDOW
    return Admission(
        ref=order.ref,
        endpoint=order.endpoint,
        tools=profile_of(installed.version).tools,
        answer_tokens=limits.answer_tokens,
        requests=limits.turns + SPARE_REQUESTS,
        # A conversation never holds more than the window at once.
        total_tokens=limits.turns * window,
        answer_bytes=limits.answer_tokens * EVENT_BYTES + SPARE_BYTES,
        held=True,
    )


def _lay_out(installed: Installation, places: Places, order: AgentOrder) -> None:
    """Write the attempt's files; a directory left by a crash is replaced."""
    shutil.rmtree(places.directory, ignore_errors=True)
    places.home.mkdir(parents=True, mode=0o700)
    places.cwd.mkdir(mode=0o700)
    places.settings.write_text(json.dumps(invocation.settings(installed, order)), "utf-8")
    places.schema.write_text(json.dumps(order.schema), "utf-8")


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
