"""The models that a launch may use: who may use which, where each answers, and what it can take.

Every endpoint has one set of slots, whichever of its models is asked. A plan freezes endpoints;
`frozen` finds them again, or says that they are not what they were.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from flows.facts import Facts
from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import UserId
from protocol.plan import Endpoint, FlowPlan, StepKind
from protocol.resources import ModelInfo
from server.addresses import host_of
from server.ports import AgentRunner, AgentUnavailable, ModelEndpoint, Probe
from server.runs.slots import Slots

AGENT_BYTES = 250 * 1024 * 1024
"""Memory of one agent at work (measured)."""


class Model(Struct, frozen=True, kw_only=True):
    """One model of the settings. What is None there is None here: the probe knows."""

    name: str
    endpoint: ModelEndpoint
    permitted: Sequence[frozenset[str]] = ()
    """Lists of users; a user must be on every one of them."""
    slots: int | None = None
    context_tokens: int | None = None
    first_byte_seconds: float | None = None
    idle_seconds: float | None = None

    def open_to(self, user: UserId) -> bool:
        return all(user in users for users in self.permitted)

    @property
    def public(self) -> Endpoint:
        """What people are shown, and what a plan freezes."""
        endpoint = self.endpoint
        return Endpoint(
            name=endpoint.name,
            host=host_of(endpoint.base_url),
            model=endpoint.model,
            known_as="" if self.name == endpoint.name else self.name,
        )


class Ready(NamedTuple):
    """A model that was tried: `probe` has what counts, settings before measurements."""

    model: Model
    probe: Probe


class Models:
    """Knows the models of the settings, and tries them through the agent."""

    def __init__(
        self,
        agent: AgentRunner,
        models: Sequence[Model],
        *,
        default: str | None,
        roles: Mapping[str, str],
        memory: int | None = None,
    ) -> None:
        """`roles` gives models to roles, by name. `memory` is what agents may take, in bytes; None
        where nobody knows."""
        self._agent = agent
        self._models = {model.name: model for model in models}
        self._default = default
        self._roles = roles
        self._most = None if memory is None else max(1, memory // AGENT_BYTES)
        self._slots = {
            model.endpoint.name: Slots(self._capacity(model.slots or 1)) for model in models
        }
        self._ready: dict[tuple[str, str], Ready] = {}
        self.memory = None if self._most is None else Slots(self._most)
        """Of the whole machine; None where it does not tell."""

    @property
    def none(self) -> bool:
        return not self._models

    def slots(self, endpoint: str) -> Slots | None:
        """Of an endpoint by its name; None when there is no such endpoint any more."""
        return self._slots.get(endpoint)

    # --- choosing -------------------------------------------------------------------------------

    def open_to(self, user: UserId) -> list[ModelInfo]:
        """What a user may name in a launch."""
        return [
            ModelInfo(
                name=model.name,
                host=model.public.host,
                model=self._id_of(model),
                default=model.name == self._default,
            )
            for model in self._models.values()
            if model.open_to(user)
        ]

    async def chosen(self, user: UserId, wanted: str | None) -> Model:
        """The model of a launch: by its name, by its endpoint's word for it, or the default.

        Raises ProtocolError, the same for a model that is not there and one that is another's, and
        AgentUnavailable when there is no model at all.
        """
        if not self._models:
            raise AgentUnavailable(
                "no_endpoint",
                "no model endpoint is configured",
                hint="run `podium setup`, or set OPENAI_BASE_URL and OPENAI_MODEL; to look around"
                " without a model: `podium run --demo`",
            )
        mine = [model for model in self._models.values() if model.open_to(user)]
        if wanted is None:
            meant = [model for model in mine if model.name == self._default]
            refusal = "name a model: the default one is not permitted to you"
        else:
            meant = [model for model in mine if model.name == wanted]
            meant = meant or [model for model in mine if await self._is_called(model, wanted)]
            refusal = f"the model `{wanted}` is not permitted here"
        if len(meant) != 1:
            raise self._not_permitted(user, refusal)
        return meant[0]

    def of_roles(self, user: UserId, roles: Sequence[str]) -> dict[str, Model]:
        """The models that the settings give these roles; raises ProtocolError when the user may
        not use one of them: another one in its place would be a silent change."""
        found = {role: self._models[self._roles[role]] for role in roles if role in self._roles}
        for role, model in found.items():
            if not model.open_to(user):
                raise self._not_permitted(user, f"the role {role} has a model of its own here, "
                                          "which is not permitted to you")  # fmt: skip
        return found

    def frozen(self, endpoint: Endpoint) -> Model:
        """The model that a plan was made for; raises AgentUnavailable `endpoint_changed` when the
        settings know it no more, or know it elsewhere."""
        model = self._models.get(endpoint.known_as or endpoint.name)
        if model is None or model.endpoint.name != endpoint.name:
            raise changed(endpoint, "the settings no longer name it")
        if model.public.host != endpoint.host:
            raise changed(endpoint, f"it is at {model.public.host} now")
        if model.endpoint.model not in ("", endpoint.model):
            raise changed(endpoint, f"it is `{model.endpoint.model}` now")
        asked = msgspec.structs.replace(model.endpoint, model=endpoint.model)
        return msgspec.structs.replace(model, endpoint=asked)

    def check_open(self, user: UserId, endpoint: Endpoint) -> None:
        """Raise ProtocolError when a plan's model is not the user's to use."""
        model = self._models.get(endpoint.known_as or endpoint.name)
        if model is not None and not model.open_to(user):
            raise self._not_permitted(user, "a model of this plan is not permitted here")

    def _id_of(self, model: Model) -> str:
        known = self._ready.get((model.name, model.endpoint.model))
        return known.probe.public.model if known else model.endpoint.model

    async def _is_called(self, model: Model, wanted: str) -> bool:
        if self._id_of(model) or model.name != self._default:
            return self._id_of(model) == wanted
        # The settings leave the default's name to its endpoint.
        return (await self.ready(model)).probe.public.model == wanted

    def _not_permitted(self, user: UserId, message: str) -> ProtocolError:
        names = ", ".join(info.name for info in self.open_to(user))
        hint = f"you may use: {names}" if names else "you may use none; ask who runs this server"
        return ProtocolError(ErrorCode.BAD_ARGUMENTS, message, field="model", hint=hint)

    # --- trying ---------------------------------------------------------------------------------

    async def ready(self, model: Model) -> Ready:
        """Try a model (cached), or raise AgentUnavailable. Sets the slots of its endpoint."""
        await self._agent.check()
        key = (model.name, model.endpoint.model)
        slots = self._slots[model.endpoint.name]
        known = self._ready.get(key)
        if known is not None and slots.full:
            # It serves our own agents, and a trial would stand in line behind them.
            return known
        probe = self._settled(model, await self._agent.probe(model.endpoint))
        slots.resize(probe.slots)
        asked = msgspec.structs.replace(model.endpoint, model=probe.public.model)
        ready = Ready(msgspec.structs.replace(model, endpoint=asked), probe)
        self._ready[key] = ready
        return ready

    async def ready_again(self, endpoint: Endpoint) -> Ready:
        """Try the model that a plan was made for; raises AgentUnavailable, `endpoint_changed` when
        it is not the same."""
        try:
            ready = await self.ready(self.frozen(endpoint))
        except AgentUnavailable as error:
            if error.reason == "model_missing":
                raise changed(endpoint, error.message) from error
            raise
        if ready.probe.public != endpoint:
            raise changed(endpoint, "another one answers there now")
        return ready

    def _settled(self, model: Model, probe: Probe) -> Probe:
        """What the settings say goes before what was measured."""
        public = msgspec.structs.replace(
            model.public, model=probe.public.model, demo=probe.public.demo
        )
        return msgspec.structs.replace(
            probe,
            public=public,
            slots=self._capacity(model.slots or probe.slots),
            context_tokens=model.context_tokens or probe.context_tokens,
        )

    def _capacity(self, slots: int) -> int:
        return slots if self._most is None else min(slots, self._most)


def needed_endpoints(plan: FlowPlan, facts: Facts) -> list[Endpoint]:
    """The endpoints of the agent steps that have not ended, each once, in plan order."""
    return list(
        dict.fromkeys(
            plan.endpoint_of(step)
            for step in plan.steps
            if step.kind is StepKind.AGENT and not facts.steps[step.id].status.terminal
        )
    )


def changed(endpoint: Endpoint, how: str) -> AgentUnavailable:
    name = endpoint.known_as or endpoint.name
    return AgentUnavailable(
        "endpoint_changed",
        f"the plan was made for `{endpoint.model}` at {endpoint.host} ({name}): {how}",
        hint="put it back into the settings, or launch anew with a plan that names the other one",
    )
