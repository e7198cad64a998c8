"""What the settings must say of models, endpoints and roles: each name names something."""

from collections.abc import Collection, Iterator

from server.settings.faults import Doubts, Fault, listed, near, shown
from server.settings.tables import ModelSettings, Settings


def misnamed(settings: Settings, doubts: Doubts) -> Iterator[tuple[str, str]]:
    """Every key whose name means nothing, with what is wrong; none that needs what is in doubt."""
    if doubts.about("endpoints") or doubts.about("models"):
        return
    # Which endpoints are models themselves hangs on all of these.
    sure = not (doubts.about_some("endpoints", "model") or doubts.about_some("models", "endpoint"))
    own = settings.own_models if sure else {}
    for name, model in settings.models.items():
        yield from _model(settings, doubts, name, model)
        if name in own:
            yield (
                f"models.{name}",
                f"the endpoint `{shown(name)}` is a model of that name itself; choose another name"
                f" here, or take `model` out of [endpoints.{shown(name)}]",
            )
    if sure:
        known = settings.all_models
        yield from _roles(settings, doubts, known)
        if not doubts.about("default_model"):
            yield from _default(settings, known)


def unknown_roles(settings: Settings, known: Collection[str]) -> list[Fault]:
    """The roles of the settings that no flow of the catalogue has."""
    found = []
    for role in sorted(set(settings.roles) - set(known)):
        guess = near(role, known)
        way_out = f"did you mean `{guess}`?" if guess else f"there are: {', '.join(known)}"
        key = f"roles.{role}"
        says = f"no flow has a role `{shown(role)}`; {way_out}"
        found.append(Fault(settings.source(key), key, says))
    return found


def _model(
    settings: Settings, doubts: Doubts, name: str, model: ModelSettings
) -> Iterator[tuple[str, str]]:
    known = doubts.about("models", name, "endpoint") or doubts.about("endpoints", model.endpoint)
    if model.endpoint not in settings.endpoints and not known:
        yield f"models.{name}.endpoint", _nothing(model.endpoint, settings.endpoints)
    if not _somebody(settings, model):
        yield (
            f"models.{name}.users",
            f"names nobody who may use the endpoint `{shown(model.endpoint)}`; name somebody of"
            " [endpoints.*].users, or take the line out",
        )
    if not model.model and not doubts.about("models", name, "model"):
        yield f"models.{name}.model", "is empty; write the name that the endpoint knows"


def _somebody(settings: Settings, model: ModelSettings) -> bool:
    """Whether anybody may use the model of those who may use its endpoint."""
    endpoint = settings.endpoints.get(model.endpoint)
    if endpoint is None or endpoint.users is None or model.users is None:
        return True
    return bool(set(endpoint.users) & set(model.users))


def _roles(settings: Settings, doubts: Doubts, known: Collection[str]) -> Iterator[tuple[str, str]]:
    for role, name in settings.roles.items():
        lost = any(doubts.about(table, name) for table in ("models", "endpoints"))
        if name not in known and not lost:
            yield f"roles.{role}", _nothing(name, known)


def _default(settings: Settings, known: Collection[str]) -> Iterator[tuple[str, str]]:
    name = settings.default_name
    if settings.default_model and name not in known:
        yield "default_model", _nothing(settings.default_model, known)
    elif name is None and known:
        yield "default_model", f"is missing; set it to one of {listed(known)}"


def _nothing(name: str, known: Collection[str]) -> str:
    there = f"there are: {listed(known)}" if known else "there is none"
    return f"`{shown(name)}` names nothing; {there}"
