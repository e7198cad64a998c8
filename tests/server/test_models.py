"""Models by name: who may use which, what a plan freezes, and that nothing goes elsewhere."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flows.briefing import Prompt
from protocol.ids import PlanId, UserId
from protocol.plan import Endpoint, FlowPlan
from server.app import opened
from server.ports import AgentOrder, AgentResult, AgentUnavailable, Emit, ModelEndpoint, Probe
from server.runs.attempt import limits_of, prefill_seconds
from server.runs.models import AGENT_BYTES, Model, Models, Ready
from server.runs.rooms import Clocks
from server.settings import EndpointSettings, ModelSettings, Settings, SettingsError
from tests.fakes.agent import FakeAgent
from tests.flows.plans import caps
from tests.server.harness import TOKEN, House, house

SMALL = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m")
GPU = EndpointSettings(base_url="http://127.0.0.1:7/v1", slots=2)
BIG = ModelSettings(endpoint="gpu", model="b")
TWO: dict[str, Any] = {"endpoints": {"default": SMALL, "gpu": GPU}, "models": {"big": BIG}}
PLANNED = {"name": "gpu", "host": "127.0.0.1:7", "model": "b", "known_as": "big"}


class Endpoints(FakeAgent):
    """Endpoints that differ: by model, a window or a reason why it cannot be used."""

    def __init__(self, **found: int | str) -> None:
        super().__init__()
        self.found: Mapping[str, int | str] = found
        self.probed: list[str] = []

    async def probe(self, endpoint: ModelEndpoint) -> Probe:
        self.probed.append(endpoint.model)
        found = self.found.get(endpoint.model)
        if isinstance(found, str) and found != "other":
            raise AgentUnavailable(found, "it cannot be used", hint="mend it")
        probe = await super().probe(endpoint)
        model = "another" if found == "other" else endpoint.model or "first"
        return msgspec.structs.replace(
            probe,
            public=msgspec.structs.replace(probe.public, model=model),
            context_tokens=found if isinstance(found, int) else None,
        )


async def refused(home: House, **changes: Any) -> dict[str, Any]:
    answer = await home.http.post("/api/runs", json=home.body(**changes))
    assert answer.is_error, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def planned(home: House, command: str = "/code-review small src") -> dict[str, Any]:
    body = {"project_id": home.project_id, "command": command}
    answer = await home.http.post("/api/plans", json=body)
    assert answer.is_success, answer.text
    plan: dict[str, Any] = answer.json()["plan"]
    return plan


def seen(orders: list[AgentOrder]) -> dict[str, tuple[str, str]]:
    return {it.ref.step_id: (it.endpoint.base_url, it.endpoint.model) for it in orders}


# ── roles ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_role_has_its_own_model_from_plan_to_report(tmp_path: Path) -> None:
    async with house(tmp_path, **TWO, roles={"security": "big"}) as home:
        plan = await planned(home)
        run_id = await home.launch()
        frames = await home.end_of(run_id)
        text = (await home.http.get(f"/api/runs/{run_id}/report.md")).text
        report = (await home.http.get(f"/api/runs/{run_id}/report.json")).json()
    assert plan["endpoint"] == {"name": "default", "host": "127.0.0.1:9", "model": "m"}
    own = {step["role"]: step["endpoint"] for step in plan["steps"] if "endpoint" in step}
    assert own == {"security": PLANNED}
    (frame,) = (frame for frame in frames if frame["type"] == "flow_run_planned")
    assert {it["id"]: it.get("endpoint") for it in frame["plan"]["steps"]} == {
        it["id"]: it.get("endpoint") for it in plan["steps"]
    }
    used = seen(home.agent.orders)
    assert used.pop("review.security") == ("http://127.0.0.1:7/v1", "b")
    assert set(used.values()) == {("http://127.0.0.1:9/v1", "m")}
    assert report["role_endpoints"] == {"security": PLANNED}
    assert "model `m@127.0.0.1:9` · security: `b@127.0.0.1:7`" in text


async def test_without_roles_nothing_is_said_of_them(tmp_path: Path) -> None:
    async with house(tmp_path, **TWO) as home:
        plan = await planned(home)
        run_id = await home.launch()
        await home.end_of(run_id)
        report = (await home.http.get(f"/api/runs/{run_id}/report.json")).json()
    assert not any("endpoint" in step for step in plan["steps"])
    assert "role_endpoints" not in report


async def test_a_broken_model_of_a_role_matters_when_the_role_is_seated(tmp_path: Path) -> None:
    agent = Endpoints(b="no_tool_calls")
    async with house(tmp_path, agent=agent, **TWO, roles={"security": "big"}) as home:
        body = await refused(home)
        assert (body["error"], body["field"]) == ("agent_unavailable", "no_tool_calls")
        assert (await planned(home, "/code-review small --skip security src"))["steps"]
        assert (await home.http.get("/api/runs")).json() == {"runs": []}


async def test_the_window_is_that_of_the_steps_own_model(tmp_path: Path) -> None:
    agent = Endpoints(b=8_192)
    async with house(tmp_path, agent=agent, **TWO, roles={"security": "big"}) as home:
        body = await refused(home)
        assert body["field"] == "model"
        assert "step review.security needs about" in body["message"]
        assert "b has 8192" in body["message"]
    roomy = {**TWO, "models": {"big": msgspec.structs.replace(BIG, context_tokens=65_536)}}
    async with house(tmp_path, agent=agent, **roomy, roles={"security": "big"}) as home:
        await home.end_of(await home.launch())
        orders = {str(order.ref.step_id): order.limits.context_tokens for order in agent.orders}
        assert orders["review.security"] == 65_536, "what is set goes before what was found"
        assert orders["review.general.1"] is None


async def test_a_role_that_no_flow_has_is_refused_at_start(tmp_path: Path) -> None:
    settings = Settings(
        data=str(tmp_path), endpoints={"default": SMALL}, roles={"securty": "default"}
    )
    with pytest.raises(SettingsError, match="did you mean `security`"):
        async with opened(settings, token=TOKEN, projects=[], agent=FakeAgent()):
            pass


# ── choosing ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_launch_names_a_model(tmp_path: Path) -> None:
    async with house(tmp_path, **TWO) as home:
        flows = (await home.http.get("/api/flows")).json()
        assert flows["models"] == [
            {"name": "default", "host": "127.0.0.1:9", "model": "m", "default": True},
            {"name": "big", "host": "127.0.0.1:7", "model": "b"},
        ]
        async with home.socket() as wire:
            assert (await wire.ask(type="flows", id="f"))["models"] == flows["models"]
        for name in ("big", "b"):
            home.agent.orders.clear()
            run_id = await home.launch(model=name)
            frames = await home.end_of(run_id)
            assert frames[0]["run"]["model"] == name
            assert set(seen(home.agent.orders).values()) == {("http://127.0.0.1:7/v1", "b")}


async def test_a_model_of_others_looks_like_none(tmp_path: Path) -> None:
    models = {"big": msgspec.structs.replace(BIG, users=["ann"])}
    async with house(tmp_path, **{**TWO, "models": models}) as home:
        flows = (await home.http.get("/api/flows")).json()
        assert [model["name"] for model in flows["models"]] == ["default"]
        others, none = await refused(home, model="big"), await refused(home, model="huge")
        assert others["message"] == none["message"].replace("huge", "big")
        assert others["hint"] == none["hint"] == "you may use: default"
        assert others["error"] == none["error"] == "bad_arguments"
        assert others["field"] == none["field"] == "model"
        by_id = await refused(home, model="b")
        assert by_id["message"] == none["message"].replace("huge", "b")
    # The same launch by somebody who is on the list: the list was what refused it.
    mine = {"big": msgspec.structs.replace(BIG, users=["ann", "local"])}
    async with house(tmp_path, **{**TWO, "models": mine}) as home:
        assert await home.launch(model="big")


async def test_a_default_of_others_is_not_named(tmp_path: Path) -> None:
    closed = msgspec.structs.replace(SMALL, users=["ann"])
    changes = {**TWO, "endpoints": {"default": closed, "gpu": GPU}}
    async with house(tmp_path, **changes) as home:
        body = await refused(home)
        assert body["field"] == "model"
        assert body["hint"] == "you may use: big"
        assert "127.0.0.1:9" not in str(body)


async def test_a_role_whose_model_is_others_is_refused_not_replaced(tmp_path: Path) -> None:
    models = {"big": msgspec.structs.replace(BIG, users=["ann"])}
    changes = {**TWO, "models": models, "roles": {"security": "big"}}
    async with house(tmp_path, **changes) as home:
        body = await refused(home)
        assert (body["error"], body["field"]) == ("bad_arguments", "model")
        assert "security" in body["message"]
        assert "big" not in str(body)


async def test_the_first_model_of_an_endpoint_has_its_own_name_too(tmp_path: Path) -> None:
    bare = {"default": msgspec.structs.replace(SMALL, model="")}
    async with house(tmp_path, agent=Endpoints(), endpoints=bare) as home:
        run_id = await home.launch(model="first")
        await home.end_of(run_id)
        assert {model for _, model in seen(home.agent.orders).values()} == {"first"}
        assert "not permitted" in (await refused(home, model="second"))["message"]


# ── what was frozen ──────────────────────────────────────────────────────────────────────────────


MOVED = msgspec.structs.replace(GPU, base_url="http://127.0.0.1:6/v1")
CHANGES: dict[str, dict[str, Any]] = {
    "moved": {"endpoints": {"default": SMALL, "gpu": MOVED}, "models": {"big": BIG}},
    "renamed": {**TWO, "models": {"big": msgspec.structs.replace(BIG, model="c")}},
    "at another endpoint": {**TWO, "models": {"big": ModelSettings(endpoint="default", model="b")}},
    "gone": {"endpoints": {"default": SMALL}},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_stored_plan_goes_where_it_said_or_nowhere(tmp_path: Path, change: str) -> None:
    async with house(tmp_path, **TWO, roles={"security": "big"}) as home:
        plan_id = (await planned(home))["plan_id"]
        first = await home.launch()
        await home.end_of(first)
    async with house(tmp_path, **CHANGES[change]) as home, home.socket() as wire:
        answer = await wire.ask(type="launch", id="1", key="k", plan_id=plan_id)
        assert (answer["code"], answer["field"]) == ("agent_unavailable", "endpoint_changed")
        assert "`b` at 127.0.0.1:7 (big)" in answer["message"]
        rerun = {"steps": ["review.security"]}
        again = await home.http.post(f"/api/runs/{first}/rerun", json=rerun)
        assert (again.status_code, again.json()["field"]) == (503, "endpoint_changed")
        other = await home.http.post(f"/api/runs/{first}/rerun", json={"steps": ["validate"]})
        assert other.status_code == 201, "what it needs is where it was"
        assert home.agent.orders == []
    # The control: with the settings of the plan it is launched.
    async with house(tmp_path, **TWO) as home, home.socket() as wire:
        answer = await wire.ask(type="launch", id="1", key="k", plan_id=plan_id)
        assert answer["created"]
        await home.end_of(answer["run_id"])
        assert seen(home.agent.orders)["review.security"] == ("http://127.0.0.1:7/v1", "b")


@pytest.mark.parametrize("found", ["other", "model_missing"])
async def test_another_model_at_the_same_place_is_another_model(tmp_path: Path, found: str) -> None:
    async with house(tmp_path, **TWO, roles={"security": "big"}) as home:
        plan_id = (await planned(home))["plan_id"]
    agent = Endpoints(b=found)
    async with house(tmp_path, agent=agent, **TWO) as home, home.socket() as wire:
        answer = await wire.ask(type="launch", id="1", key="k", plan_id=plan_id)
        assert (answer["code"], answer["field"]) == ("agent_unavailable", "endpoint_changed")


async def test_a_plan_with_a_model_of_others_is_refused(tmp_path: Path) -> None:
    async with house(tmp_path, **TWO, roles={"security": "big"}) as home:
        plan_id = (await planned(home))["plan_id"]
    models = {"big": msgspec.structs.replace(BIG, users=["ann"])}
    async with house(tmp_path, **{**TWO, "models": models}) as home, home.socket() as wire:
        answer = await wire.ask(type="launch", id="1", key="k", plan_id=plan_id)
        assert (answer["code"], answer["field"]) == ("bad_arguments", "model")


@pytest.mark.parametrize("change", CHANGES)
async def test_a_run_goes_on_where_it_was_or_fails_by_name(tmp_path: Path, change: str) -> None:
    held = FakeAgent()
    held.hold()
    async with house(tmp_path, agent=held, **TWO) as home:
        run_id = await home.launch(model="big")
        await held.started(2)
    async with house(tmp_path, **CHANGES[change]) as home:
        frames = await home.end_of(run_id)
        assert (frames[-1]["status"], frames[-1]["reason"]) == ("failed", "endpoint_changed")
        assert home.agent.orders == []


async def test_what_was_delivered_stands_and_the_rest_fails_by_name(tmp_path: Path) -> None:
    agent = Stuck("review.security")
    async with house(tmp_path, agent=agent, **TWO, roles={"security": "big"}) as home:
        run_id = await home.launch()
        async with home.socket() as wire:
            await wire.send(type="subscribe", id="s", run_id=run_id)
            await wire.until(step_id="review.general.1", status="completed")
    async with house(tmp_path, **CHANGES["moved"]) as home:
        frames = await home.end_of(run_id)
        used = seen(home.agent.orders)
    ends = {
        frame["step_id"]: (frame["status"], frame.get("reason"))
        for frame in frames
        if frame["type"] == "flow_run_step_status"
    }
    assert ends["review.general.1"] == ("completed", None)
    assert ends["review.security"] == ("failed", "endpoint_changed")
    assert frames[-1]["status"] == "partial"
    assert "review.security" not in used


class Stuck(FakeAgent):
    """Never ends the attempts of one step."""

    def __init__(self, step_id: str) -> None:
        super().__init__()
        self._step_id = step_id

    async def run(self, order: AgentOrder, emit: Emit) -> AgentResult:
        if order.ref.step_id == self._step_id:
            await asyncio.Event().wait()
        return await super().run(order, emit)


# ── slots ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_queued_step_says_what_holds_it(tmp_path: Path) -> None:
    agent = FakeAgent(slots=1)
    async with house(tmp_path, agent=agent) as home:
        slots = home.podium.runner._rooms.models.slots("default")
        assert slots is not None
        run_id = await narrow(home, slots.join(UserId("x")), agent)
        frames = await home.end_of(run_id)
    queued = {
        frame["step_id"]: (frame["reason"], frame["queue"])
        for frame in frames
        if frame.get("queue")
    }
    assert queued == {
        "review.general.1": ("endpoint_slots", place("endpoint_slots")),
        "review.security": ("run_parallel", place("run_parallel")),
    }
    (notice,) = (frame for frame in frames if frame["type"] == "flow_run_step_notice")
    assert notice["step_id"] == "review.security"
    assert (notice["code"], notice["data"]) == ("endpoint_slots", place("endpoint_slots"))
    assert "number 1 in line for 127.0.0.1:9" in notice["message"]


def place(limit: str) -> dict[str, Any]:
    return {"limit": limit, "place": 1, "host": "127.0.0.1:9"}


async def narrow(home: House, first: Any, agent: FakeAgent) -> str:
    """A run that may have one agent at work, while the test holds the endpoint's one slot: before
    its first step, and again before its second."""
    rooms = home.podium.runner._rooms
    plan = msgspec.convert(await planned(home), FlowPlan)
    one = msgspec.structs.replace(
        plan,
        plan_id=PlanId("00000000-0000-4000-8000-000000000042"),
        caps=msgspec.structs.replace(plan.caps, parallel=1),
    )
    await rooms.store.save_plan(one, {})
    async with home.socket() as wire:
        answer = await wire.ask(type="launch", id="1", key="k", plan_id=one.plan_id, subscribe=True)
        await wire.until(step_id="review.security", status="queued")
        assert agent.orders == [], "nothing has started, so no clock runs"
        agent.hold()
        first.leave()
        await agent.started(1)
        slots = rooms.models.slots("default")
        assert slots is not None
        second = slots.join(UserId("x"))
        agent.release()
        await wire.until(type="flow_run_step_notice")
        assert len(agent.orders) == 1
        second.leave()
        return str(answer["run_id"])


async def test_a_step_that_was_queued_at_a_stop_goes_on(tmp_path: Path) -> None:
    first = FakeAgent(slots=1)
    first.hold()
    async with house(tmp_path, agent=first) as home:
        run_id = await home.launch()
        await first.started(1)
    async with house(tmp_path, agent=FakeAgent(slots=1)) as home:
        frames = await home.end_of(run_id)
    assert frames[-1]["status"] == "completed"


async def test_slots_are_the_endpoints_and_capped_by_memory() -> None:
    agent = FakeAgent(slots=8)
    one, two = (
        Model(name=name, endpoint=ModelEndpoint(name="e", base_url="http://h", api_key="", model=m))
        for name, m in (("one", "a"), ("two", "b"))
    )
    explicit = msgspec.structs.replace(
        one, name="f", slots=3, endpoint=msgspec.structs.replace(one.endpoint, name="f")
    )
    for memory, shared, set_ in ((None, 8, 3), (AGENT_BYTES * 2, 2, 2), (1, 1, 1)):
        models = Models(agent, [one, two, explicit], default="one", roles={}, memory=memory)
        ready = [await models.ready(model) for model in (one, two, explicit)]
        assert [it.probe.slots for it in ready] == [shared, shared, set_]
        assert models.slots("e") is not None
        assert models.slots("e").capacity == shared  # type: ignore[union-attr]  # looked at above
        whole = models.memory.capacity if models.memory else None
        assert whole == (None if memory is None else max(1, memory // AGENT_BYTES))


async def test_an_endpoint_that_serves_our_own_agents_is_not_tried_again() -> None:
    agent = Endpoints()
    model = Model(
        name="e", endpoint=ModelEndpoint(name="e", base_url="http://h", api_key="", model="a")
    )
    models = Models(agent, [model], default="e", roles={})
    first = await models.ready(model)
    slots = models.slots("e")
    assert slots is not None
    places = [slots.join(UserId("x")) for _ in range(first.probe.slots)]
    assert await models.ready(model) == first
    assert len(agent.probed) == 1
    places[0].leave()
    await models.ready(model)
    assert len(agent.probed) == 2, "the agent keeps what it finds; it is asked"


# ── clocks ───────────────────────────────────────────────────────────────────────────────────────


PROMPT = Prompt(system="s" * 40, user="u" * 4_360)
"""1,100 tokens: with what the agent itself sends, 5,500."""


def ready_with(*, per_token: float | None, slots: int = 1, **changes: float) -> Ready:
    endpoint = ModelEndpoint(name="e", base_url="http://h", api_key="", model="a")
    public = Endpoint(name="e", host="h", model="a")
    probe = Probe(
        public=public, slots=slots, context_tokens=None, prefill_seconds_per_token=per_token
    )
    return Ready(Model(name="e", endpoint=endpoint, **changes), probe)  # type: ignore[arg-type]  # seconds only


@pytest.mark.parametrize(
    ("ready", "first_byte"),
    [
        (ready_with(per_token=None), 600.0),
        (ready_with(per_token=0.001), 600.0),
        (ready_with(per_token=0.1), 1_650.0),
        (ready_with(per_token=0.1, slots=2), 3_300.0),
        (ready_with(per_token=0.1, first_byte_seconds=20.0), 20.0),
    ],
)
def test_the_first_byte_clock_knows_how_fast_the_model_reads(
    ready: Ready, first_byte: float
) -> None:
    limits = limits_of(caps(), ready, PROMPT, Clocks(600.0, 300.0))
    assert limits.first_byte_seconds == pytest.approx(first_byte)
    assert limits.prefill_seconds == pytest.approx(prefill_seconds(PROMPT, ready.probe))
    assert limits.idle_seconds == 300.0


def test_an_endpoints_own_idle_clock() -> None:
    ready = ready_with(per_token=None, idle_seconds=7.0)
    assert limits_of(caps(), ready, PROMPT, Clocks(600.0, 300.0)).idle_seconds == 7.0
