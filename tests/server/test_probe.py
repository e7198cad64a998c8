"""An endpoint that cannot be used is found before a run is accepted, with the way out."""

from collections.abc import Awaitable, Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.agents.probe import Prober, host_of
from server.demo.app import Behaviour, create_app, scripted
from server.ports import AgentUnavailable, ModelEndpoint
from server.world import SystemClock
from tests.fakes.model import FakeModel, calls, refuses, says, serving, silent

MODEL = "podium-demo"


def endpoint(url: str, *, model: str = MODEL, key: str = "k") -> ModelEndpoint:
    return ModelEndpoint(name="default", base_url=url, api_key=key, model=model)


@pytest.mark.parametrize(
    ("behaviour", "reason", "hint"),
    [
        (refuses(401), "endpoint_refused_key", "OPENAI_API_KEY"),
        (refuses(404), "endpoint_not_found", "/v1"),
        (refuses(500), "endpoint_error", "log"),
        (refuses(400, "exceeds the available context size"), "context_too_small", "OLLAMA_CONTEXT"),
        (refuses(400, "tools are not supported"), "no_tool_calls", "--jinja"),
        (says("I call no tools."), "no_tool_calls", "tool-call-parser"),
        (calls("podium_probe", {"marker": "the front was lost"}), "context_too_small", "32768"),
        (silent(), "endpoint_slow", "probe_seconds"),
    ],
)
async def test_each_defect_has_its_reason_and_its_way_out(
    behaviour: Behaviour, reason: str, hint: str
) -> None:
    prober = Prober(SystemClock(), seconds=1.5)
    async with serving(create_app(behaviour=behaviour)) as url:
        with pytest.raises(AgentUnavailable) as refused:
            await prober.probe(endpoint(url))
    assert refused.value.reason == reason
    assert hint in (refused.value.hint or "")


async def test_nobody_there() -> None:
    with pytest.raises(AgentUnavailable) as refused:
        await Prober(SystemClock(), seconds=5).probe(endpoint("http://127.0.0.1:9/v1"))
    assert refused.value.reason == "endpoint_unreachable"


async def test_a_good_endpoint_is_asked_once_and_the_demo_is_labelled() -> None:
    model = FakeModel(scripted(pace=0))
    prober = Prober(SystemClock(), seconds=10)
    async with serving(model.app) as url:
        first = await prober.probe(endpoint(url))
        assert await prober.probe(endpoint(url)) is first
        unnamed = await prober.probe(endpoint(url, model=""))
    assert len(model.requests) == 4, "two calls for each of two models"
    assert first.public.demo
    assert unnamed.public.model == MODEL, "without a model, the endpoint's first"


async def test_an_unknown_model_lists_the_known_ones() -> None:
    async with serving(create_app(pace=0)) as url:
        with pytest.raises(AgentUnavailable) as refused:
            await Prober(SystemClock(), seconds=5).probe(endpoint(url, model="other"))
    assert refused.value.reason == "model_missing"
    assert MODEL in (refused.value.hint or "")


Answer = Callable[[Request], Awaitable[Response]]


def real(*, listing: dict[str, object], extra: dict[str, object]) -> Starlette:
    """The demo without its label, as another kind of server shows itself."""

    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": MODEL, **listing}]})

    def fixed(body: object) -> Answer:
        async def answer(_: Request) -> Response:
            return JSONResponse(body)

        return answer

    demo = create_app(pace=0)
    chat = next(route for route in demo.routes if isinstance(route, Route) and "chat" in route.path)
    others = [Route(path, fixed(body)) for path, body in extra.items()]
    return Starlette(routes=[Route("/v1/models", models), chat, *others])


@pytest.mark.parametrize(
    ("listing", "extra", "slots", "window"),
    [
        ({"max_model_len": 32_768}, {}, 8, 32_768),
        (
            {},
            {"/props": {"total_slots": 3, "default_generation_settings": {"n_ctx": 8_192}}},
            3,
            8_192,
        ),
        ({}, {"/api/tags": {"models": []}}, 1, None),
        ({}, {}, 2, None),
    ],
)
async def test_slots_and_window_come_from_the_server(
    listing: dict[str, object], extra: dict[str, object], slots: int, window: int | None
) -> None:
    async with serving(real(listing=listing, extra=extra)) as url:
        probe = await Prober(SystemClock(), seconds=10).probe(endpoint(url))
    assert (probe.slots, probe.context_tokens, probe.public.demo) == (slots, window, False)


def test_the_host_never_shows_a_password() -> None:
    assert host_of("http://user:secret@127.0.0.1:1/v1") == "127.0.0.1:1"
    assert "secret" not in repr(endpoint("http://h/v1", key="secret"))
