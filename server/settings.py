"""The settings: one frozen Struct, from defaults < TOML file < environment < flags.

Every error is reported at once, each with its key, the place it came from, and the way out. What
the values mean together is checked by `guards.py`.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import platformdirs
from msgspec import Meta, Struct

from server import guards
from server.addresses import fault_of, is_loopback, is_remote
from server.keys import Keys
from server.limits import LimitSettings

S = TypeVar("S", bound=Struct)

Port = Annotated[int, Meta(ge=0, le=65_535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
MiB = Annotated[int, Meta(ge=64, le=1024 * 1024)]
Slots = Annotated[int, Meta(ge=1, le=256)]
Tokens = Annotated[int, Meta(ge=1_024)]
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
User = Annotated[str, Meta(pattern=r"\A[^\x00-\x20\x7f]{1,200}\Z")]
Users = Annotated[list[User], Meta(min_length=1)]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SettingsError(Exception):
    """Settings that cannot be used: `problems` are sentences, each with its source."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class EndpointSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[endpoints.NAME]`: a server that models answer at.

    It is a model of its own name when it has a `model`, or when no `[models.*]` is at it.
    """

    base_url: str
    """OpenAI-compatible, as `http://127.0.0.1:11434/v1`."""
    model: str = ""
    """As the endpoint calls it; empty: the first that it lists."""
    api_key: str = ""
    """The key itself. Only in a file that nobody else can read."""
    api_key_env: str = ""
    """The environment variable that holds the key."""
    api_key_file: str = ""
    """The file that holds the key and nothing else."""
    remote: bool = False
    """Must be true for an address beyond this machine: text of the project is sent there."""
    plaintext: bool = False
    """Must be true for `http` beyond this machine: everyone on the way can read along."""
    slots: Slots | None = None
    """How many agents it serves at once; left out: as the probe finds."""
    context_tokens: Tokens | None = None
    """The window of its models; left out: as the probe finds."""
    first_byte_seconds: Seconds | None = None
    """Exactly so long may a first sign take; left out: as measured, see the setting above."""
    idle_seconds: Seconds | None = None
    """In place of the setting of the same name above."""
    users: Users | None = None
    """Who may use it; left out: everyone."""

    def __repr__(self) -> str:
        return f"EndpointSettings(base_url={self.base_url!r}, model={self.model!r})"


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[models.NAME]`: a model that a launch, a role or `default_model` can name."""

    endpoint: str
    """The name of an `[endpoints.*]`."""
    model: str
    """As the endpoint calls it."""
    context_tokens: Tokens | None = None
    """Its window; left out: that of its endpoint."""
    users: Users | None = None
    """Who may use it, of those who may use its endpoint; left out: all of them."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    """The address to listen on."""
    port: Port = 8765
    """The port to listen on; 0 takes a free one."""
    data: str = ""
    """DIR: all that is ever written is below it. Empty: the usual place of this system."""
    token: str = ""
    """The local user's token; empty: made once and kept in DIR."""
    public_url: str = ""
    """The address that browsers use; required beyond loopback."""
    allowed_origins: list[str] = []
    """Further sites whose pages may use this server."""
    trusted_proxies: list[str] = []
    """Addresses or networks of reverse proxies, whose word on who asks is taken."""
    proxy_user_header: str = ""
    """The header in which they name the user; empty: they name none."""
    endpoints: dict[str, EndpointSettings] = {}
    """Servers of models, by name."""
    models: dict[str, ModelSettings] = {}
    """Models, by name."""
    roles: dict[str, str] = {}
    """Models of single roles, by role, as `security = "big"`."""
    default_model: str = ""
    """Used when a launch names none; empty: `default`, or the only one there is."""
    first_byte_seconds: Seconds = 600.0
    """Until a model's first sign. A slow model has three times its measured reading time."""
    idle_seconds: Seconds = 300.0
    """Between two signs of life."""
    probe_seconds: Seconds = 120.0
    """For one trial of an endpoint."""
    containment: Literal["auto", "required", "off"] = "auto"
    """`auto`: as much as the host allows, and all of it beyond loopback or with several users."""
    agent_memory_mib: MiB = 2_048
    """Of one agent's whole process tree."""
    agent_processes: Annotated[int, Meta(ge=8, le=4_096)] = 64
    """Processes and threads of one agent."""
    agent_cpu_seconds: Annotated[int, Meta(ge=10, le=86_400)] = 1_800
    """Processor time of one agent."""
    trees_mib: MiB = 4_096
    """How much room the pinned copies may take before the least recently used one goes."""
    project_roots: list[str] = []
    """Folders below which a project may lie; empty: anywhere, for a single user on loopback."""
    keep_attempts: bool = False
    """Keep each attempt's files, for looking into a failure."""
    stall_seconds: Seconds = 10.0
    """How long a client's socket may take nothing of what is sent before it is freed."""
    limits: LimitSettings = LimitSettings()
    """What one user, one socket and all together may take."""
    frames_days: Annotated[int, Meta(ge=1, le=3_650)] = 30
    """How long the frames of an ended run are kept."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged."""
    log_json: bool = False
    """Log JSON lines."""
    sources: dict[str, str] = {}
    """Where each key came from, for later complaints. Filled by `load`; no key of its own."""

    @property
    def directory(self) -> Path:
        return Path(self.data)

    @property
    def all_models(self) -> dict[str, ModelSettings]:
        """Every model by name: those of `models`, and the endpoints that are models themselves."""
        served = {model.endpoint for model in self.models.values()}
        implied = {
            name: ModelSettings(endpoint=name, model=endpoint.model)
            for name, endpoint in self.endpoints.items()
            if endpoint.model or name not in served
        }
        return implied | self.models

    @property
    def default_name(self) -> str | None:
        """The model of a launch that names none; None when nothing says which."""
        known = self.all_models
        if self.default_model or "default" in known:
            return self.default_model or "default"
        return next(iter(known)) if len(known) == 1 else None

    @property
    def users(self) -> set[str]:
        """Everyone whom some endpoint or model names."""
        lists = [endpoint.users for endpoint in self.endpoints.values()]
        lists += [model.users for model in self.models.values()]
        return {user for users in lists for user in users or []}

    @property
    def shared(self) -> bool:
        """Whether others than a single local user may get here."""
        return not is_loopback(self.host) or bool(self.trusted_proxies) or len(self.users) > 1

    @property
    def contained_required(self) -> bool:
        """Whether an agent that cannot be contained at every level must not start."""
        return self.containment == "required" or (self.containment == "auto" and self.shared)

    def source(self, key: str) -> str:
        """Where a key came from, as `endpoints.gpu.slots`."""
        return _source_of(self.sources, key)


STRENGTHS = ("off", "auto", "required")
"""Of the containment, the weakest first."""
ENVIRONMENT = {
    "PODIUM_HOST": "host",
    "PODIUM_PORT": "port",
    "PODIUM_DATA": "data",
    "PODIUM_TOKEN": "token",
    "PODIUM_PUBLIC_URL": "public_url",
    "PODIUM_CONTAINMENT": "containment",
    "PODIUM_LOG_LEVEL": "log_level",
}
ENDPOINT_ENVIRONMENT = {
    "OPENAI_BASE_URL": "base_url",
    "OPENAI_API_KEY": "api_key",
    "OPENAI_MODEL": "model",
}
TABLES: dict[str, type[Struct]] = {"endpoints": EndpointSettings, "models": ModelSettings}
"""Tables of tables with names."""
SECTIONS: dict[str, type[Struct]] = {"limits": LimitSettings}
"""Single tables."""
FLAGS = "the command line"


def default_data() -> Path:
    return Path(platformdirs.user_data_dir("podium", appauthor=False))


def default_file() -> Path:
    return Path(platformdirs.user_config_dir("podium", appauthor=False)) / "podium.toml"


def load(
    flags: Mapping[str, Any], environment: Mapping[str, str], *, file: Path | None = None
) -> Settings:
    """Join the sources; raise SettingsError with every problem of every source.

    `file` None means the default place, where it may be missing.
    """
    problems: list[str] = []
    path = file or default_file()
    values: dict[str, Any] = {"data": str(default_data())}
    sources: dict[str, str] = {}
    _take(values, sources, _from_file(path, problems, needed=file is not None), str(path))
    asked = values.get("containment")
    _take_environment(values, sources, environment, problems)
    _take(values, sources, {k: v for k, v in flags.items() if v is not None}, FLAGS)
    problems += _loosened(asked, values.get("containment"), str(path), sources)
    # Empty is not the folder that podium happens to be started in, which may be a project.
    values["data"] = values["data"] or str(default_data())
    settings = _Conversion(sources, str(path), problems).settings(values)
    if settings is not None:
        problems += guards.problems(settings)
        settings = Keys(path, environment, problems).filled(settings)
    if problems or settings is None:
        raise SettingsError(problems)
    return settings


# ── the sources ──────────────────────────────────────────────────────────────────────────────────


def _from_file(path: Path, problems: list[str], *, needed: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        problems += [f"{path}: {error}"] if needed else []
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{path}: {error}")
        return {}


def _take(
    values: dict[str, Any], sources: dict[str, str], found: Mapping[str, Any], source: str
) -> None:
    """Later sources win key by key."""
    values.update(found)
    sources.update(dict.fromkeys(found, source))


def _loosened(asked: Any, given: Any, file: str, sources: Mapping[str, str]) -> Iterator[str]:
    """Later sources win, but no variable and no flag takes away a guard that the file asks for."""
    known = asked in STRENGTHS and given in STRENGTHS
    if known and STRENGTHS.index(given) < STRENGTHS.index(asked):
        yield (
            f"{sources['containment']}: containment: `{given}` is less than `{asked}` in {file};"
            " change it there if that is what you want"
        )


def _take_environment(
    values: dict[str, Any],
    sources: dict[str, str],
    environment: Mapping[str, str],
    problems: list[str],
) -> None:
    for variable, key in ENVIRONMENT.items():
        if environment.get(variable):
            found = {key: environment[variable]}
            _take(values, sources, found, f"the environment ({variable})")
    # A key alone never selects a remote host: without a base URL the other two are not ours.
    if environment.get("OPENAI_BASE_URL"):
        _take_endpoint(values, sources, environment, problems)


def _take_endpoint(
    values: dict[str, Any],
    sources: dict[str, str],
    environment: Mapping[str, str],
    problems: list[str],
) -> None:
    """The endpoint of the environment is the model of everything: of every role, and the default.

    It takes the place of the file's `default`, but for who may use that: no variable lets more
    people in, or makes several users one.
    """
    source = "the environment (OPENAI_BASE_URL)"
    endpoint: dict[str, Any] = {
        key: environment[variable]
        for variable, key in ENDPOINT_ENVIRONMENT.items()
        if environment.get(variable)
    }
    endpoint["remote"] = _allowed_beyond(environment, source, problems)
    known = values.get("endpoints", {})
    earlier = known.get("default") if isinstance(known, dict) else None
    if isinstance(earlier, dict) and "users" in earlier:
        endpoint["users"] = earlier["users"]
    others = known if isinstance(known, dict) else {}
    values |= {"endpoints": {**others, "default": endpoint}, "default_model": "default"}
    values["roles"] = {}
    sources.update(dict.fromkeys(("endpoints.default", "default_model", "roles"), source))


def _allowed_beyond(environment: Mapping[str, str], source: str, problems: list[str]) -> bool:
    """Whether the environment's endpoint may lie beyond this machine; notes when it must not."""
    said = environment.get("PODIUM_REMOTE", "")
    if said not in ("", "0", "1"):
        problems.append(f"the environment: PODIUM_REMOTE is `{said}`; set it to 1 or unset it")
    url = environment["OPENAI_BASE_URL"]
    if fault_of(url) is None and is_remote(url) and said != "1":
        problems.append(
            f"{source}: {url} is beyond this machine, and text of the project would be sent there;"
            " set PODIUM_REMOTE=1 to allow that, or unset OPENAI_BASE_URL and name the endpoint"
            f" with `remote = true` in {default_file()}"
        )
        return True  # complained about; the guards need not do it again
    return said == "1"


# ── from values to Structs ───────────────────────────────────────────────────────────────────────


class _Conversion:
    """Converts values key by key, so that one fault does not hide the next."""

    def __init__(self, sources: Mapping[str, str], file: str, problems: list[str]) -> None:
        self._sources = dict(sources)
        self._file = file
        self._problems = problems

    def settings(self, values: Mapping[str, Any]) -> Settings | None:
        before = len(self._problems)
        good = self._fields(Settings, values, "")
        if len(self._problems) > before:
            return None
        return Settings(**good, sources=self._sources)

    def _fields(self, kind: type[Struct], values: Mapping[str, Any], place: str) -> dict[str, Any]:
        """The fields of `values` that are right; what is not is noted."""
        known = {it.name: it for it in msgspec.structs.fields(kind) if it.name != "sources"}
        good: dict[str, Any] = {}
        for key, value in values.items():
            if key not in known:
                listed = ", ".join(sorted(known))
                self._note(f"{place}{key}", f"unknown key (known: {listed})")
            elif key in TABLES and not place:
                good[key] = self._table(TABLES[key], value, key)
            elif key in SECTIONS and not place:
                good[key] = self._section(SECTIONS[key], value, key)
            else:
                good[key] = self._value(known[key].type, value, f"{place}{key}")
        for key, field in known.items():
            if field.required and key not in values:
                self._note(f"{place}{key}", "is missing")
        return good

    def _table(self, kind: type[S], values: Any, key: str) -> dict[str, S]:
        if not isinstance(values, dict):
            self._note(key, f"is no table; write [{key}.NAME]")
            return {}
        found: dict[str, S] = {}
        for name, entry in values.items():
            place = f"{key}.{name}"
            before = len(self._problems)
            self._value(Name, name, place)
            if isinstance(entry, dict):
                good = self._fields(kind, entry, f"{place}.")
                if len(self._problems) == before:
                    found[name] = kind(**good)
            else:
                self._note(place, f"is no table; write [{place}]")
        return found

    def _section(self, kind: type[S], values: Any, key: str) -> S | None:
        if not isinstance(values, dict):
            self._note(key, f"is no table; write [{key}]")
            return None
        before = len(self._problems)
        good = self._fields(kind, values, f"{key}.")
        return kind(**good) if len(self._problems) == before else None

    def _value(self, kind: Any, value: Any, key: str) -> Any:
        # A variable and a flag are text; a file has types.
        strict = self._source(key) == self._file
        try:
            return msgspec.convert(value, kind, strict=strict)
        except msgspec.ValidationError as error:
            choices = f"; one of {', '.join(get_args(kind))}" if _is_choice(kind) else ""
            self._note(key, f"{error}{choices}")
            return None

    def _note(self, key: str, says: str) -> None:
        self._problems.append(f"{self._source(key)}: {key}: {says}")

    def _source(self, key: str) -> str:
        return _source_of(self._sources, key)


def _source_of(sources: Mapping[str, str], key: str) -> str:
    """A table of one source may have a part of another: the longest name that is known counts."""
    while key and key not in sources:
        key = key.rpartition(".")[0]
    return sources.get(key, "the defaults")


def _is_choice(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is Literal
