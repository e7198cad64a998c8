"""An agent without a process: it answers each attempt as the test says, and can be held."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from protocol.frames import Channel, FlowRunStepDelta
from protocol.plan import Endpoint
from protocol.resources import Containment, Proof, Receipt, SelfTest, Usage
from server.ports import (
    AgentFailure,
    AgentOrder,
    AgentResult,
    AgentUnavailable,
    AttemptCancelled,
    Emit,
    ModelEndpoint,
    Probe,
)

RECEIPT = Receipt(
    agent="fake",
    agent_version="0",
    mode="plan",
    tools=["read_file"],
    denials=[],
    host="fake",
    contained=Containment.NONE,
    write_probe=SelfTest.NOT_RUN,
    tree_before="t",
    tree_after="t",
    repository_before=None,
    repository_after=None,
    proven=Proof.NO,
)

NOTHING_FOUND: dict[str, Any] = {
    "summary": "Nothing was found.",
    "findings": [],
    "cleared": [],
    "deferred": [],
    "negative": True,
    "searched": ["every file of the slice"],
    "end": "complete",
}

Answer = Callable[[AgentOrder], dict[str, Any] | AgentFailure]


def finding(path: str, line: int, quote: str, **changes: Any) -> dict[str, Any]:
    """A finding as an agent reports it."""
    return {
        "title": "A title",
        "claim": "The claim of the finding.",
        "category": "correctness",
        "severity": "warning",
        "confidence": "high",
        "citations": [{"path": path, "line_start": line, "line_end": line, "quote": quote}],
        "impact": "What it does.",
        "fix": None,
        "action": None,
        "alias": None,
        **changes,
    }


def found(*findings: dict[str, Any]) -> dict[str, Any]:
    return NOTHING_FOUND | {
        "summary": "Something was found.",
        "findings": list(findings),
        "negative": False,
        "searched": [],
    }


class FakeAgent:
    """Answers by `answer(order)`; `hold()` makes attempts wait until `release()`."""

    def __init__(self, answer: Answer | None = None, *, slots: int = 4) -> None:
        self.answer: Answer = answer or (lambda order: NOTHING_FOUND)
        self.slots = slots
        self.orders: list[AgentOrder] = []
        self.running: set[str] = set()
        self.unavailable: AgentUnavailable | None = None
        self.receipt: Callable[[AgentOrder], Receipt | None] = lambda order: RECEIPT
        self.containment_required = False
        self._held: frozenset[str] = frozenset()
        self._free = asyncio.Event()
        self._free.set()
        self._started = asyncio.Condition()

    def hold(self, *step_ids: str) -> None:
        """Hold these steps, or all."""
        self._held = frozenset(step_ids)
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    async def started(self, number: int) -> None:
        """Wait until so many attempts have started."""
        async with self._started:
            await self._started.wait_for(lambda: len(self.orders) >= number)

    async def check(self) -> str:
        if self.unavailable is not None:
            raise self.unavailable
        return "0.24.4"

    def require_containment(self) -> None:
        self.containment_required = True

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        await self.check()
        public = Endpoint(name=endpoint.name, host="fake", model=endpoint.model)
        return Probe(public=public, slots=self.slots, context_tokens=None)

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        async with self._started:
            self.orders.append(order)
            self._started.notify_all()
        step_id = order.ref.step_id
        self.running.add(step_id)
        try:
            await emit(_words(order, ["I ", "read ", "the ", "files."]))
            if not self._held or step_id in self._held:
                await self._free.wait()
            answer = self.answer(order)
        except asyncio.CancelledError as cancelled:
            raise AttemptCancelled(self._result(order, None)) from cancelled
        finally:
            self.running.discard(step_id)
        return self._result(order, answer)

    def _result(
        self, order: AgentOrder, answer: dict[str, Any] | AgentFailure | None
    ) -> AgentResult:
        failed = isinstance(answer, AgentFailure)
        return AgentResult(
            raw=None if failed else answer,
            text="",
            failure=answer if isinstance(answer, AgentFailure) else None,
            usage=Usage(input_tokens=10, output_tokens=5, requests=1),
            exit_code=1 if failed else 0,
            receipt=self.receipt(order),
            denied_tools=0,
        )


def _words(order: AgentOrder, words: Sequence[str]) -> list[FlowRunStepDelta]:
    frames, offset = [], 0
    for word in words:
        frames.append(
            FlowRunStepDelta(
                run_id=order.ref.run_id,
                step_id=order.ref.step_id,
                attempt=order.ref.attempt,
                channel=Channel.TEXT,
                offset=offset,
                text=word,
            )
        )
        offset += len(word)
    return frames
