"""The calls that try a model: a streamed tool call on a prompt of real size, and a whole result.

What an endpoint answers is as little trusted as what it is asked for: everything is bounded.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, NamedTuple

import httpx
import msgspec
from msgspec import Struct

from flows.outputs import FindingsOutput
from flows.planner import BYTES_PER_TOKEN
from flows.schemas import schema_for
from protocol.plan import Caps
from server.addresses import host_of
from server.agents.relay.body import is_plain, pieces_of
from server.agents.relay.endpoint_failures import MEND_TOOLS, MEND_WINDOW, without_key
from server.agents.relay.meter import said_in
from server.ports import AgentUnavailable, Clock, ModelEndpoint

FILLER_BYTES = 17_000
"""The size of an agent's first request before any brief (measured)."""
MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of one answer; a model's is some kilobytes."""
TRIES = 2
"""For the result: a model that misses the form once gets a repair in a run, too."""
MEND_SCHEMA = "choose a larger model, or update the server: results are nested JSON of a schema"

TOOL = "podium_probe"
_MARKER_SCHEMA = {
    "type": "object",
    "properties": {"marker": {"type": "string"}},
    "required": ["marker"],
    "additionalProperties": False,
}
_CAPS = Caps(
    specialists=1, parallel=1, rounds=1, files=1, batches=1, findings_per_step=8, turns=1,
    tool_calls=1, seconds=60, tokens=1_024,
)  # fmt: skip
_NOTHING_FOUND = {
    "summary": "Nothing was found.",
    "findings": [],
    "cleared": [],
    "deferred": [],
    "negative": True,
    "searched": ["the probe"],
    "end": "complete",
}


class _Function(Struct, frozen=True):
    arguments: str | None = None


class _Call(Struct, frozen=True):
    function: _Function | None = None


class _Delta(Struct, frozen=True):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: list[_Call] | None = None

    @property
    def says_something(self) -> bool:
        """Servers send an empty delta before they read the prompt."""
        return any((self.content, self.reasoning, self.reasoning_content, self.tool_calls))


class _Choice(Struct, frozen=True):
    delta: _Delta | None = None


class _Chunk(Struct, frozen=True):
    choices: list[_Choice] | None = None


class Answer(NamedTuple):
    arguments: str
    """Of the tool call, as they came."""
    seconds_per_token: float
    """Until the first word, by token of the prompt."""


class Trial:
    """Tries one model of an endpoint."""

    def __init__(
        self, http: httpx.AsyncClient, endpoint: ModelEndpoint, model: str, clock: Clock
    ) -> None:
        self._http = http
        self._endpoint = endpoint
        self._model = model
        self._clock = clock

    async def run(self) -> float:
        """Make both calls; returns the measured seconds per token of a prompt.

        Raises AgentUnavailable with what is missing and how it is mended.
        """
        first = await self._marker()
        second = await self._result()
        # A first call may wait until the model is loaded, a short one is mostly latency.
        return min(first, second)

    async def _marker(self) -> float:
        """A prompt as large as an agent's, whose head must come back in a tool call."""
        marker = secrets.token_hex(4)
        lines = [f"line {number}: this text only takes up room." for number in range(400)]
        filler = "\n".join(lines)[:FILLER_BYTES]
        content = f"marker: {marker}\n{filler}\nCall {TOOL} with the marker from the first line."
        answer = await self._ask(
            content, "Report the marker that stands at the head of the message.", _MARKER_SCHEMA
        )
        if marker not in answer.arguments:
            raise AgentUnavailable(
                "context_too_small",
                f"{self._host} loses the front of a prompt of {len(content)} bytes",
                hint=MEND_WINDOW,
            )
        return answer.seconds_per_token

    async def _result(self) -> float:
        """A result as every reviewing step returns it: the schema is taken, and it is met."""
        wanted = msgspec.json.encode(_NOTHING_FOUND).decode()
        content = f"marker: {secrets.token_hex(4)}\nCall {TOOL} once, with exactly this: {wanted}"
        for _ in range(TRIES):
            answer = await self._ask(
                content, "Deliver the result of a review.", schema_for("findings", _CAPS)
            )
            try:
                msgspec.json.decode(answer.arguments, type=FindingsOutput)
            except msgspec.DecodeError as error:
                problem = _short(str(error))
            else:
                return answer.seconds_per_token
        raise AgentUnavailable(
            "schema_unmet",
            f"the model `{self._model}` does not fill in a result as it must: {problem}",
            hint=MEND_SCHEMA,
        )

    @property
    def _host(self) -> str:
        return host_of(self._endpoint.base_url)

    async def _ask(self, content: str, description: str, schema: dict[str, Any]) -> Answer:
        """One streamed answer, which must be a tool call."""
        function = {"name": TOOL, "description": description, "parameters": schema}
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "tools": [{"type": "function", "function": function}],
            "stream": True,
            "max_tokens": 1_024,
        }
        tokens = len(msgspec.json.encode(body)) / BYTES_PER_TOKEN
        began, first, called, arguments = self._clock.monotonic(), 0.0, False, ""
        async for delta in self._deltas(body):
            if delta.says_something and not first:
                first = self._clock.monotonic() - began
            for call in delta.tool_calls or []:
                called = True
                arguments += (call.function.arguments if call.function else None) or ""
        if not called:
            raise AgentUnavailable(
                "no_tool_calls",
                f"the model `{self._model}` answers without calling tools",
                hint=MEND_TOOLS,
            )
        return Answer(arguments, first / tokens)

    async def _deltas(self, body: dict[str, Any]) -> AsyncIterator[_Delta]:
        url = f"{self._endpoint.base_url}/chat/completions"
        async with self._http.stream("POST", url, json=body) as response:
            if response.is_error:
                refused = await whole(response, self._host)
                check_status(response.status_code, refused, self._endpoint)
            async for line in _lines(response, self._host):
                data = line.removeprefix(b"data:").strip()
                if not line.startswith(b"data:") or data == b"[DONE]":
                    continue
                chunk = msgspec.json.decode(data, type=_Chunk)
                for choice in chunk.choices or []:
                    yield choice.delta or _Delta()


def check_status(status: int, body: bytes, endpoint: ModelEndpoint) -> None:
    """Turn an HTTP error into its reason and its way out."""
    if status < 400:
        return
    host = host_of(endpoint.base_url)
    said = without_key(said_in(body), endpoint)
    if status in (401, 403):
        hint = f"set OPENAI_API_KEY, or api_key_env in [endpoints.{endpoint.name}]"
        raise AgentUnavailable("endpoint_refused_key", f"{host} refuses the key", hint=hint)
    if status == 404:
        raise AgentUnavailable(
            "endpoint_not_found",
            f"{host} knows no such address",
            hint="the base URL ends with /v1 on most servers",
        )
    lowered = said.lower()
    if "context" in lowered:
        raise AgentUnavailable("context_too_small", f"{host}: {said}", hint=MEND_WINDOW)
    if "schema" in lowered or "grammar" in lowered:
        raise AgentUnavailable("schema_unsupported", f"{host}: {said}", hint=MEND_SCHEMA)
    if "tool" in lowered:
        raise AgentUnavailable("no_tool_calls", f"{host}: {said}", hint=MEND_TOOLS)
    raise AgentUnavailable(
        "endpoint_error", f"{host} answers with HTTP {status}: {said}", hint="see its own log"
    )


def _short(text: str) -> str:
    """What others say, for a person: one line, no control character."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:200]


async def whole(response: httpx.Response, host: str) -> bytes:
    """The body of a response, if it has an end."""
    return b"".join([piece async for piece in _bounded(response, host)])


async def _lines(response: httpx.Response, host: str) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for piece in _bounded(response, host):
        *lines, last = piece.split(b"\n")
        for line in lines:
            rest += line
            yield bytes(rest)
            rest.clear()
        rest += last
    yield bytes(rest)


async def _bounded(response: httpx.Response, host: str) -> AsyncIterator[bytes]:
    """The body as it comes. Raises AgentUnavailable for one without an end, or compressed."""
    if not is_plain(response):
        raise _odd(f"{host} sends what is compressed, which was not asked for")
    size = 0
    async with aclosing(pieces_of(response)) as pieces:
        async for piece in pieces:
            size += len(piece)
            if size > MAX_ANSWER:
                raise _odd(f"{host} answers without an end")
            yield piece


def _odd(message: str) -> AgentUnavailable:
    return AgentUnavailable("endpoint_error", message, hint="see its own log")
