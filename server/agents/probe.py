"""Trying an endpoint as an agent would use it, before a run is accepted.

This finds servers that refuse tool calls or results of a schema, and servers that silently drop
the front of a prompt; and it measures how fast the model reads.
"""

import asyncio
from collections import defaultdict
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from protocol.plan import Endpoint
from server.addresses import host_of
from server.agents.probe_calls import Trial, check_status, whole
from server.certificates import authorities, way_out
from server.ports import AgentUnavailable, Clock, ModelEndpoint, Probe

DEMO_HEADER = "x-podium-demo"
GOOD_SECONDS, BAD_SECONDS = 600.0, 5.0
CONNECT_SECONDS = 5.0
DEFAULT_SLOTS, VLLM_SLOTS, DEMO_SLOTS = 2, 8, 4
MAX_SLOTS = 256
MAX_WINDOW = 2**31
"""Tokens; what is more, or less than one, is no window."""
MAX_NAME = 200
"""Of a model."""

Key = tuple[str, str, str]


class _Kept(Struct, frozen=True):
    at: float
    found: Probe | AgentUnavailable


class _Listed(Struct, frozen=True):
    """A model in an endpoint's own list."""

    id: str
    max_model_len: Any = None


class _Listing(Struct, frozen=True):
    data: list[_Listed] | None = None


class Prober:
    """Keeps what was found: a good endpoint for ten minutes, a bad one for five seconds."""

    def __init__(self, clock: Clock, *, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._kept: dict[Key, _Kept] = {}
        # One trial of a model at a time; another endpoint does not wait for a slow one.
        self._locks: defaultdict[Key, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        """What the endpoint is, or AgentUnavailable with the way out."""
        key = (endpoint.base_url, endpoint.model, endpoint.api_key)
        async with self._locks[key]:
            kept = self._kept.get(key)
            now = self._clock.monotonic()
            if kept is None or now - kept.at >= _lifetime(kept.found):
                kept = _Kept(now, await self._try(endpoint))
                self._kept[key] = kept
        if isinstance(kept.found, AgentUnavailable):
            raise kept.found
        return kept.found

    async def _try(self, endpoint: ModelEndpoint) -> Probe | AgentUnavailable:
        headers = {"Accept-Encoding": "identity"}
        if endpoint.api_key:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        timeout = httpx.Timeout(self._seconds, connect=CONNECT_SECONDS)
        host = host_of(endpoint.base_url)
        trust = await asyncio.to_thread(authorities, endpoint.base_url)
        try:
            async with (
                asyncio.timeout(self._seconds),
                httpx.AsyncClient(
                    headers=headers, timeout=timeout, trust_env=False, verify=trust
                ) as http,
            ):
                return await _examine(http, endpoint, self._clock)
        except AgentUnavailable as error:
            return error
        except (TimeoutError, httpx.ReadTimeout):
            return AgentUnavailable(
                "endpoint_slow",
                f"{host} did not answer the probe in {self._seconds:.0f} s",
                hint="give it more time with probe_seconds in the settings",
            )
        except (msgspec.DecodeError, RecursionError) as error:
            return AgentUnavailable(
                "endpoint_error",
                f"what {host} answers is not what a model's endpoint says: {error}",
                hint="correct its base URL (it ends with /v1), or see its own log",
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            untrusted = way_out(error) if isinstance(error, httpx.TransportError) else None
            return AgentUnavailable(
                "endpoint_unreachable",
                f"no model answers at {host}: {error}",
                hint=untrusted
                or "start the model server, or correct its base URL (it ends with /v1)",
            )


def _lifetime(found: Probe | AgentUnavailable) -> float:
    return BAD_SECONDS if isinstance(found, AgentUnavailable) else GOOD_SECONDS


async def _examine(http: httpx.AsyncClient, endpoint: ModelEndpoint, clock: Clock) -> Probe:
    async with http.stream("GET", f"{endpoint.base_url}/models") as response:
        body = await whole(response, host_of(endpoint.base_url))
        check_status(response.status_code, body, endpoint)
        demo = response.headers.get(DEMO_HEADER) is not None
    model = _choose(msgspec.json.decode(body, type=_Listing), endpoint)
    seconds_per_token = await Trial(http, endpoint, model.id, clock).run()
    slots, window = await _capacity(http, endpoint, model, demo=demo)
    return Probe(
        public=Endpoint(
            name=endpoint.name, host=host_of(endpoint.base_url), model=model.id, demo=demo
        ),
        slots=slots,
        context_tokens=window,
        prefill_seconds_per_token=seconds_per_token,
    )


def _choose(listing: _Listing, endpoint: ModelEndpoint) -> _Listed:
    """The configured model, or the first one when none is configured."""
    entries = [entry for entry in listing.data or [] if _is_name(entry.id)]
    for entry in entries:
        if endpoint.model in ("", entry.id):
            return entry
    known = ", ".join(entry.id for entry in entries[:8]) or "none"
    raise AgentUnavailable(
        "model_missing",
        f"{host_of(endpoint.base_url)} has no model `{endpoint.model}`",
        hint=f"set the model of [endpoints.{endpoint.name}] (or OPENAI_MODEL) to one of: {known}",
    )


async def _capacity(
    http: httpx.AsyncClient, endpoint: ModelEndpoint, model: _Listed, *, demo: bool
) -> tuple[int, int | None]:
    """Slots and window, as far as the kind of server tells."""
    if demo:
        return DEMO_SLOTS, None
    if window := _window(model.max_model_len):
        return VLLM_SLOTS, window
    root = endpoint.base_url.removesuffix("/v1")
    properties = await _json(http, f"{root}/props")
    total = properties.get("total_slots")
    if isinstance(total, int):
        settings = properties.get("default_generation_settings")
        window = _window(settings.get("n_ctx")) if isinstance(settings, dict) else None
        return min(max(1, total), MAX_SLOTS), window
    if "models" in await _json(http, f"{root}/api/tags"):
        return 1, None
    return DEFAULT_SLOTS, None


def _is_name(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME and text.isprintable()


def _window(value: object) -> int | None:
    """A context window, where the value is one."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_WINDOW
    return value if good and isinstance(value, int) else None


async def _json(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """An object that the server may or may not have; empty when it has not."""
    try:
        async with http.stream("GET", url, timeout=CONNECT_SECONDS) as response:
            body = await whole(response, host_of(url))
            found = msgspec.json.decode(body) if response.is_success else {}
    except (httpx.HTTPError, msgspec.DecodeError, RecursionError, AgentUnavailable):
        return {}
    return found if isinstance(found, dict) else {}
