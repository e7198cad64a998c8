"""From the settings to the models of the runs, and to lines for people about them."""

from flows.counted import number_of
from flows.registry import Catalogue
from server.addresses import host_of
from server.ports import AgentRunner, ModelEndpoint
from server.runs.models import Model, Models, Ready
from server.settings import EndpointSettings, ModelSettings, Settings


def models_of(settings: Settings, agent: AgentRunner, *, memory: int | None) -> Models:
    """The models of the settings, tried through `agent`. `memory` is what agents may take."""
    return Models(
        agent,
        configured(settings),
        default=settings.default_name,
        roles=settings.roles,
        memory=memory,
    )


def configured(settings: Settings) -> list[Model]:
    """Every model of the settings, in their order."""
    return [
        _model(name, model, model.endpoint, settings.endpoints[model.endpoint])
        for name, model in settings.all_models.items()
    ]


def roles_of(catalogue: Catalogue) -> list[str]:
    """Every role that some flow has: those that the settings can give a model."""
    steps = [step for flow in catalogue.flows.values() for step in flow.steps]
    return sorted({step.role for step in steps if step.role is not None})


def uses(settings: Settings, name: str) -> list[str]:
    """What a model is set to: `default`, and roles. Without it these cannot run."""
    default = ["default"] if name == settings.default_name else []
    return default + [role for role, model in settings.roles.items() if model == name]


def describe(ready: Ready) -> str:
    """A model that was tried, in one line."""
    model, probe = ready
    limited = model.slots is not None and probe.slots < model.slots
    parts = [
        f"{probe.public.model} at {probe.public.host}",
        number_of(probe.slots, "slot")
        + (f" of {model.slots}: no memory for more" if limited else ""),
        f"window {probe.context_tokens} tokens" if probe.context_tokens else "window unknown",
    ]
    if probe.prefill_seconds_per_token:
        parts.append(f"reads {1 / probe.prefill_seconds_per_token:,.0f} tokens/s")
    parts.append(who(model))
    if probe.public.demo:
        parts.append("the scripted demo model: not a review")
    return ", ".join(parts)


def place(model: Model) -> str:
    """A model that could not be tried, in one line."""
    return f"{model.endpoint.model or 'its first model'} at {host_of(model.endpoint.base_url)}"


def who(model: Model) -> str:
    """Who may use a model."""
    if not model.permitted:
        return "for everyone"
    users = frozenset.intersection(*model.permitted)
    return f"for {', '.join(sorted(users))}" if users else "for nobody"


def _model(name: str, model: ModelSettings, at: str, endpoint: EndpointSettings) -> Model:
    users = [frozenset(it) for it in (endpoint.users, model.users) if it is not None]
    return Model(
        name=name,
        endpoint=ModelEndpoint(
            name=at,
            base_url=endpoint.base_url.rstrip("/"),
            api_key=endpoint.api_key,
            model=model.model,
        ),
        permitted=users,
        slots=endpoint.slots,
        context_tokens=model.context_tokens or endpoint.context_tokens,
        first_byte_seconds=endpoint.first_byte_seconds,
        idle_seconds=endpoint.idle_seconds,
    )
