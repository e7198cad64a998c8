"""Trying an endpoint as an agent would use it, before a run is accepted.

One streamed tool call on a prompt of real size whose head must come back: this finds servers that
refuse tool calls, and servers that silently drop the front of a prompt.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
from msgspec import Struct

from protocol.plan import Endpoint
from server.ports import AgentUnavailable, Clock, ModelEndpoint, Probe

DEMO_HEADER = "x-podium-demo"
FILLER_BYTES = 17_000
"""The size of an agent's first request before any brief (measured)."""
GOOD_SECONDS, BAD_SECONDS = 600.0, 5.0
CONNECT_SECONDS = 5.0
DEFAULT_SLOTS, VLLM_SLOTS, DEMO_SLOTS = 2, 8, 4
MEND_WINDOW = (
    "give the server a larger context: `OLLAMA_CONTEXT_LENGTH=32768 ollama serve`, or"
    " `llama-server -c 32768`"
)
MEND_TOOLS = (
    "start the server with tool calls: vLLM `--enable-auto-tool-choice --tool-call-parser hermes`,"
    " llama.cpp `--jinja`; or choose a model that can call tools"
)

_TOOL = {
    "type": "function",
    "function": {
        "name": "podium_probe",
        "description": "Report the marker that stands at the head of the message.",
        "parameters": {
            "type": "object",
            "properties": {"marker": {"type": "string"}},
            "required": ["marker"],
            "additionalProperties": False,
        },
    },
}


class _Kept(Struct, frozen=True):
    at: float
    found: Probe | AgentUnavailable


class Prober:
    """Keeps what was found: a good endpoint for ten minutes, a bad one for five seconds."""

    def __init__(self, clock: Clock, *, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._kept: dict[tuple[str, str, str], _Kept] = {}
        self._one_at_a_time = asyncio.Lock()

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        """What the endpoint is, or AgentUnavailable with the way out."""
        key = (endpoint.base_url, endpoint.model, endpoint.api_key)
        async with self._one_at_a_time:
            kept = self._kept.get(key)
            now = self._clock.monotonic()
            if kept is None or now - kept.at >= _lifetime(kept.found):
                kept = _Kept(now, await self._try(endpoint))
                self._kept[key] = kept
        if isinstance(kept.found, AgentUnavailable):
            raise kept.found
        return kept.found

    async def _try(self, endpoint: ModelEndpoint) -> Probe | AgentUnavailable:
        headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
        timeout = httpx.Timeout(self._seconds, connect=CONNECT_SECONDS)
        try:
            async with (
                asyncio.timeout(self._seconds),
                httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=False) as http,
            ):
                return await _examine(http, endpoint)
        except AgentUnavailable as error:
            return error
        except TimeoutError:
            return AgentUnavailable(
                "endpoint_slow",
                f"{host_of(endpoint.base_url)} did not answer the probe in {self._seconds:.0f} s",
                hint="give it more time with probe_seconds in the settings",
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return AgentUnavailable(
                "endpoint_unreachable",
                f"no model answers at {host_of(endpoint.base_url)}: {error}",
                hint="start the model server, or correct OPENAI_BASE_URL (it ends with /v1)",
            )


def host_of(base_url: str) -> str:
    """The host and port that people are shown."""
    return urlsplit(base_url).netloc.rpartition("@")[2]


def _lifetime(found: Probe | AgentUnavailable) -> float:
    return BAD_SECONDS if isinstance(found, AgentUnavailable) else GOOD_SECONDS


async def _examine(http: httpx.AsyncClient, endpoint: ModelEndpoint) -> Probe:
    listing = await http.get(f"{endpoint.base_url}/models")
    _check_status(listing.status_code, listing.text, endpoint)
    model, described = _choose(listing.json(), endpoint)
    demo = listing.headers.get(DEMO_HEADER) is not None
    await _call_tool(http, endpoint, model)
    slots, window = await _capacity(http, endpoint, described, demo=demo)
    public = Endpoint(name=endpoint.name, host=host_of(endpoint.base_url), model=model, demo=demo)
    return Probe(public=public, slots=slots, context_tokens=window)


def _choose(listing: Any, endpoint: ModelEndpoint) -> tuple[str, dict[str, Any]]:
    """The configured model, or the first one when none is configured."""
    entries = [it for it in listing.get("data") or [] if isinstance(it, dict) and it.get("id")]
    for entry in entries:
        if endpoint.model in ("", entry["id"]):
            return str(entry["id"]), entry
    known = ", ".join(str(entry["id"]) for entry in entries[:8]) or "none"
    raise AgentUnavailable(
        "model_missing",
        f"{host_of(endpoint.base_url)} has no model `{endpoint.model}`",
        hint=f"set OPENAI_MODEL to one of: {known}",
    )


async def _call_tool(http: httpx.AsyncClient, endpoint: ModelEndpoint, model: str) -> None:
    marker = secrets.token_hex(4)
    lines = [f"line {number}: this text only takes up room." for number in range(400)]
    filler = "\n".join(lines)[:FILLER_BYTES]
    content = f"marker: {marker}\n{filler}\nCall podium_probe with the marker from the first line."
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "tools": [_TOOL],
        "stream": True,
        "max_tokens": 1_024,
    }
    arguments, called = "", False
    async for delta in _stream(http, endpoint, body):
        for call in delta.get("tool_calls") or []:
            called = True
            arguments += (call.get("function") or {}).get("arguments") or ""
    if not called:
        raise AgentUnavailable(
            "no_tool_calls", f"the model `{model}` answers without calling tools", hint=MEND_TOOLS
        )
    if marker not in arguments:
        raise AgentUnavailable(
            "context_too_small",
            f"{host_of(endpoint.base_url)} loses the front of a prompt of {len(content)} bytes",
            hint=MEND_WINDOW,
        )


async def _stream(
    http: httpx.AsyncClient, endpoint: ModelEndpoint, body: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """The deltas of a streamed answer."""
    url = f"{endpoint.base_url}/chat/completions"
    async with http.stream("POST", url, json=body) as response:
        if response.is_error:
            text = (await response.aread()).decode("utf-8", "replace")
            _check_status(response.status_code, text, endpoint)
        async for line in response.aiter_lines():
            data = line.removeprefix("data:").strip()
            if not line.startswith("data:") or data == "[DONE]":
                continue
            for choice in json.loads(data).get("choices") or []:
                yield choice.get("delta") or {}


def _check_status(status: int, text: str, endpoint: ModelEndpoint) -> None:
    """Turn an HTTP error into its reason and its way out."""
    if status < 400:
        return
    host = host_of(endpoint.base_url)
    said = " ".join(text.split())[:200]
    if status in (401, 403):
        raise AgentUnavailable(
            "endpoint_refused_key", f"{host} refuses the key", hint="set OPENAI_API_KEY"
        )
    if status == 404:
        raise AgentUnavailable(
            "endpoint_not_found",
            f"{host} knows no such address",
            hint="OPENAI_BASE_URL ends with /v1 on most servers",
        )
    if "context" in said.lower():
        raise AgentUnavailable("context_too_small", f"{host}: {said}", hint=MEND_WINDOW)
    if "tool" in said.lower():
        raise AgentUnavailable("no_tool_calls", f"{host}: {said}", hint=MEND_TOOLS)
    raise AgentUnavailable(
        "endpoint_error", f"{host} answers with HTTP {status}: {said}", hint="see its own log"
    )


async def _capacity(
    http: httpx.AsyncClient, endpoint: ModelEndpoint, described: dict[str, Any], *, demo: bool
) -> tuple[int, int | None]:
    """Slots and window, as far as the kind of server tells."""
    if demo:
        return DEMO_SLOTS, None
    if isinstance(described.get("max_model_len"), int):
        return VLLM_SLOTS, described["max_model_len"]
    root = endpoint.base_url.removesuffix("/v1")
    properties = await _json(http, f"{root}/props")
    if "total_slots" in properties:
        settings = properties.get("default_generation_settings") or {}
        window = settings.get("n_ctx")
        return int(properties["total_slots"]), window if isinstance(window, int) else None
    if "models" in await _json(http, f"{root}/api/tags"):
        return 1, None
    return DEFAULT_SLOTS, None


async def _json(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    try:
        response = await http.get(url, timeout=CONNECT_SECONDS)
        found = response.json() if response.is_success else {}
    except (httpx.HTTPError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
