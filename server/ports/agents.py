"""The port to agents: an order in, frames meanwhile, a result or the reason why there is none."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from flows.briefing import Prompt
from protocol.frames import FlowRunStepDelta, FlowRunStepNotice, FlowRunStepTool
from protocol.plan import Endpoint
from protocol.resources import Receipt, Usage
from server.ports.store import AttemptRef


class ModelEndpoint(Struct, frozen=True, kw_only=True):
    """Where a model answers, with its key: never stored, logged or sent to a client."""

    name: str
    base_url: str
    """OpenAI-compatible, as `http://127.0.0.1:11434/v1`."""
    api_key: str
    model: str

    def __repr__(self) -> str:
        return f"ModelEndpoint(name={self.name!r}, model={self.model!r})"


class Probe(Struct, frozen=True, kw_only=True):
    """What was learned of an endpoint that can be used."""

    public: Endpoint
    slots: int
    """How many agents it serves at once."""
    context_tokens: int | None
    """The model's window, when the endpoint tells."""
    prefill_seconds_per_token: float | None = None
    """How long it takes to read a prompt, measured; None when nothing was."""


class AgentUnavailable(Exception):
    """No trustworthy agent: nothing is started. `reason` is stable, `hint` mends it."""

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint


class AttemptLimits(Struct, frozen=True, kw_only=True):
    turns: int
    tool_calls: int
    answer_tokens: int
    context_tokens: int | None
    total_seconds: float
    """From spawn, all of it."""
    first_byte_seconds: float
    """From spawn to the first sign of the model. It has its slot by then: waiting behind our own
    agents is over, and does not count."""
    idle_seconds: float
    """Between two signs of life."""
    prefill_seconds: float = 0.0
    """How long the model should take to read the prompt, by measurement: silence up to here is
    reading, and no stall. 0 when nobody knows."""


class AgentOrder(Struct, frozen=True, kw_only=True):
    """Everything one attempt needs. The agent decides nothing else."""

    ref: AttemptRef
    session_id: str
    prompt: Prompt
    schema: dict[str, Any]
    """JSON Schema of the one structured result."""
    tree: Path
    """The pinned copy."""
    repository: Path
    """The project itself: looked at before and after, never given to the agent."""
    endpoint: ModelEndpoint
    limits: AttemptLimits


class AgentFailure(Struct, frozen=True, kw_only=True):
    """Why an attempt did not deliver. `reason` is stable, `message` is for a person."""

    reason: str
    message: str
    retryable: bool = False
    """It was infrastructure: the same attempt may succeed."""
    repairable: bool = False
    """There was an answer, but not a valid one: one repair attempt may succeed."""
    retry_after: float | None = None
    """Seconds that the endpoint asked to be left alone, when it did."""


class AgentResult(Struct, frozen=True, kw_only=True):
    """How an attempt ended: with `raw` (parsed JSON) or with a `failure`."""

    raw: Any
    text: str
    """What the agent last said, at most 64 KiB, for a repair attempt."""
    failure: AgentFailure | None
    usage: Usage
    exit_code: int | None
    receipt: Receipt | None
    denied_tools: int


class AttemptCancelled(asyncio.CancelledError):
    """An attempt was cancelled after its process had started, and this is what was seen of it.

    `result` has usage and receipt, and a failure only when read-only is not proven.
    """

    def __init__(self, result: AgentResult) -> None:
        super().__init__()
        self.result = result


AgentFrame = FlowRunStepDelta | FlowRunStepTool | FlowRunStepNotice
Emit = Callable[[Sequence[AgentFrame]], Awaitable[None]]
"""Takes frames in order; returning late is back-pressure that the agent's reader must honour."""


class AgentRunner(Protocol):
    async def check(self) -> str:
        """Return the agent's version, or raise AgentUnavailable. Cheap after the first call."""
        ...

    def require_containment(self) -> None:
        """From now on start no attempt that is not contained at every level: there are several
        users."""
        ...

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        """Try an endpoint as an agent would use it (cached), or raise AgentUnavailable."""
        ...

    async def start(self) -> None:
        """End what an earlier server left running, and open the way to the models."""
        ...

    async def stop(self) -> None:
        """Close that way. Nothing runs any more when it is called."""
        ...

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        """Make one attempt. Cancelling it kills the agent's whole process tree; it ends only when
        the last process is gone, with AttemptCancelled if there was one."""
        ...
