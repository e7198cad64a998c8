"""An endpoint that cannot be used is found before a run is accepted, with the way out."""

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from server.addresses import host_of
from server.agents.probe import Prober
from server.demo import wire
from server.demo.app import Behaviour, create_app, scripted, stream
from server.demo.script import next_turn
from server.demo.wire import ChatRequest
from server.ports import AgentUnavailable, ModelEndpoint
from server.world import SystemClock
from tests.fakes.model import FakeModel, Gate, calls, garbles, refuses, says, serving, silent
from tests.server.clocks import HeldClock

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
    # Only silence is to last too long: a busy machine makes every other answer late, too.
    prober = Prober(SystemClock(), seconds=1.5 if reason == "endpoint_slow" else 60)
    async with serving(create_app(behaviour=behaviour)) as url:
        with pytest.raises(AgentUnavailable) as refused:
            await prober.probe(endpoint(url))
    assert refused.value.reason == reason
    assert hint in (refused.value.hint or "")


async def test_what_an_endpoint_says_is_shown_without_the_key() -> None:
    said = "key sk-not-to-be-seen\x1b[2J is\nnot for this"
    async with serving(create_app(behaviour=refuses(400, said))) as url:
        with pytest.raises(AgentUnavailable) as refused:
            await Prober(SystemClock(), seconds=5).probe(endpoint(url, key="sk-not-to-be-seen"))
    assert "sk-not" not in refused.value.message
    assert "is not for this" in refused.value.message, "the rest is shown, on one line"
    assert refused.value.message.isprintable()


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
        # What is no window is none.
        ({"max_model_len": -5}, {}, 2, None),
        ({"max_model_len": 10**30}, {}, 2, None),
        ({"max_model_len": True}, {}, 2, None),
        (
            {},
            {"/props": {"total_slots": 10**30, "default_generation_settings": {"n_ctx": -7}}},
            256,
            None,
        ),
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


# ── the result ───────────────────────────────────────────────────────────────────────────────────


async def refused(*behaviours: Behaviour) -> tuple[AgentUnavailable, int]:
    """Why the probe refuses a model that behaves so, and how often it was asked."""
    model = FakeModel(*behaviours)
    async with serving(model.app) as url:
        with pytest.raises(AgentUnavailable) as error:
            await Prober(SystemClock(), seconds=10).probe(endpoint(url))
    return error.value, len(model.requests)


async def test_a_model_that_cannot_fill_in_a_result_is_refused() -> None:
    cut = calls("podium_probe", {"summary": "Nothing.", "findings": []})
    error, asked = await refused(scripted(pace=0), cut)
    assert (error.reason, asked) == ("schema_unmet", 3)
    assert "missing required field" in error.message
    assert error.hint


async def test_what_it_fills_in_is_not_repeated_at_length() -> None:
    odd = calls("podium_probe", {"x\x1b[31m" + "y" * 100_000: 1})
    error, _ = await refused(scripted(pace=0), odd)
    assert error.reason == "schema_unmet"
    assert len(error.message) < 400
    assert "\x1b" not in error.message


async def test_a_result_may_miss_its_form_once() -> None:
    model = FakeModel(scripted(pace=0), calls("podium_probe", {}), scripted(pace=0))
    async with serving(model.app) as url:
        await Prober(SystemClock(), seconds=10).probe(endpoint(url))
    assert len(model.requests) == 3
    (tool,) = model.requests[-1].tools or []
    assert (tool.function.parameters or {})["properties"]["end"] == {
        "enum": ["complete"], "type": "string",
    }, "the schema is the one of every reviewing step"  # fmt: skip


async def test_a_server_that_takes_no_schema_is_refused() -> None:
    error, _ = await refused(scripted(pace=0), refuses(400, "cannot compile the JSON schema"))
    assert error.reason == "schema_unsupported"
    later, _ = await refused(scripted(pace=0), says("plain"))
    assert later.reason == "no_tool_calls"


@pytest.mark.parametrize(
    "listing",
    [
        b"[]", b'{"data": 1}', b'{"data": [{"id": 5}]}', b"<html>", b"{", b"x" * 5_000_000,
        b'{"x":' + b"[" * 500_000,
    ],
)  # fmt: skip
async def test_a_listing_that_is_none_is_named(listing: bytes) -> None:
    async def models(_: Request) -> Response:
        return Response(listing)

    async with serving(Starlette(routes=[Route("/v1/models", models)])) as url:
        with pytest.raises(AgentUnavailable) as error:
            await Prober(SystemClock(), seconds=10).probe(endpoint(url))
    assert error.value.reason == "endpoint_error"


async def test_names_that_are_none_are_not_shown() -> None:
    """They would be in a frame, in the store and in every report."""
    ids = ["", "x" * 500_000, "a\x1b[31m"]

    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": name} for name in ids]})

    async with serving(Starlette(routes=[Route("/v1/models", models)])) as url:
        with pytest.raises(AgentUnavailable) as error:
            await Prober(SystemClock(), seconds=10).probe(endpoint(url, model=""))
    assert error.value.reason == "model_missing"
    assert error.value.hint is not None
    assert error.value.hint.endswith(": none")


async def test_deep_nonsense_beside_the_model_is_passed_over() -> None:
    async def deep(_: Request) -> Response:
        return Response(b"[" * 500_000)

    app = real(listing={}, extra={})
    app.routes.append(Route("/props", deep))
    async with serving(app) as url:
        probe = await Prober(SystemClock(), seconds=10).probe(endpoint(url))
    assert probe.slots == 2


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
async def test_nothing_is_inflated(encoding: str) -> None:
    """Packed twice, 256 MiB are a kilobyte; three times, more than any memory holds."""
    bomb = gzip.compress(b"x" * 2**28, 9)
    if "," in encoding:
        bomb = gzip.compress(bomb)

    async def models(_: Request) -> Response:
        return Response(bomb, headers={"content-encoding": encoding})

    async with serving(Starlette(routes=[Route("/v1/models", models)])) as url:
        tracemalloc.start()
        try:
            with pytest.raises(AgentUnavailable) as error:
                await Prober(SystemClock(), seconds=10).probe(endpoint(url))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert (error.value.reason, "compressed" in error.value.message) == ("endpoint_error", True)
    assert peak < 2**24


async def test_an_answer_without_an_end_is_left() -> None:
    async def endless(_: ChatRequest) -> Response:
        return stream((b"data: " + b"x" * 65_536 for _ in count()), pace=0)

    error, _ = await refused(endless)
    assert (error.reason, "without an end" in error.message) == ("endpoint_error", True)


async def test_a_stream_that_is_none_is_named() -> None:
    error, _ = await refused(garbles())
    assert error.reason == "endpoint_error"


# ── speed, and waiting ───────────────────────────────────────────────────────────────────────────


async def test_the_reading_speed_is_measured_until_the_first_word() -> None:
    clock = HeldClock()

    def reading(seconds: float) -> Behaviour:
        async def answer(request: ChatRequest) -> Response:
            async def body() -> AsyncIterator[bytes]:
                clock.time += seconds
                for event in wire.events(request, next_turn(request)):
                    yield event

            return StreamingResponse(body(), media_type="text/event-stream")

        return answer

    model = FakeModel(reading(9.0), reading(4.5))
    async with serving(model.app) as url:
        probe = await Prober(clock, seconds=10).probe(endpoint(url))
    sizes = [len(msgspec.json.encode(request)) / 4 for request in model.requests]
    assert probe.prefill_seconds_per_token == pytest.approx(9.0 / sizes[0], rel=0.1)
    assert 9.0 / sizes[0] < 4.5 / sizes[1], (
        "a short prompt is mostly latency: the better one counts"
    )


async def test_a_slow_endpoint_delays_no_other() -> None:
    gate, prober = Gate(), Prober(SystemClock(), seconds=30)
    slow = FakeModel(gate.hold(scripted(pace=0)))
    async with serving(slow.app) as slow_url, serving(create_app(pace=0)) as quick_url:
        waiting = asyncio.create_task(prober.probe(endpoint(slow_url)))
        again = asyncio.create_task(prober.probe(endpoint(slow_url)))
        await slow.arrived(1)
        assert (await prober.probe(endpoint(quick_url))).public.model == MODEL
        assert not waiting.done()
        gate.open()
        assert await waiting is await again, "one trial for both"
    assert len(slow.requests) == 2
