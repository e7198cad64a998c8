"""What settings there are: one frozen Struct, with its tables, and where its file is.

`loading.py` reads them, `values.py` says how a value becomes one of them, and `guards.py` what they
must say together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from msgspec import Meta, Struct

from server.addresses import is_loopback
from server.limits import LimitSettings

Port = Annotated[int, Meta(ge=0, le=65_535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
MiB = Annotated[int, Meta(ge=64, le=1024 * 1024)]
Slots = Annotated[int, Meta(ge=1, le=256)]
Tokens = Annotated[int, Meta(ge=1_024)]
Name = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
        description="is no name: letters, digits, `.`, `_` and `-`, a letter or digit first, at"
        " most 64",
    ),
]
User = Annotated[
    str,
    Meta(
        pattern=r"\A[^\x00-\x20\x7f]{1,200}\Z",
        description="is no user: 1 to 200 characters, no space among them",
    ),
]
Users = Annotated[list[User], Meta(min_length=1)]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
        return self.own_models | self.models

    @property
    def own_models(self) -> dict[str, ModelSettings]:
        """The endpoints that are models of their own name."""
        served = {model.endpoint for model in self.models.values()}
        return {
            name: ModelSettings(endpoint=name, model=endpoint.model)
            for name, endpoint in self.endpoints.items()
            if endpoint.model or name not in served
        }

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
        return source_of(self.sources, key)


TABLES: dict[str, type[Struct]] = {"endpoints": EndpointSettings, "models": ModelSettings}
"""Tables of tables with names."""
SECTIONS: dict[str, type[Struct]] = {"limits": LimitSettings}
"""Single tables."""


def source_of(sources: Mapping[str, str], key: str) -> str:
    """Where a key came from. A table of one source may have a part of another: the longest name
    that is known counts."""
    while key and key not in sources:
        key = key.rpartition(".")[0]
    return sources.get(key, "the defaults")


def default_data() -> Path:
    return Path(platformdirs.user_data_dir("podium", appauthor=False))


def default_file() -> Path:
    return Path(platformdirs.user_config_dir("podium", appauthor=False)) / "podium.toml"
