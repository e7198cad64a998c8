"""The settings: one frozen Struct, from defaults < TOML file < environment < flags.

Every error is reported at once, each with the place it came from.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
import platformdirs
from msgspec import Meta, Struct

Port = Annotated[int, Meta(ge=0, le=65_535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
MiB = Annotated[int, Meta(ge=64, le=1024 * 1024)]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SettingsError(Exception):
    """Settings that cannot be used: `problems` are sentences, each with its source."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class EndpointSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the model answers. Without a model the endpoint's only (or first) one is used."""

    base_url: str
    model: str = ""
    api_key: str = ""
    slots: Annotated[int, Meta(ge=1, le=256)] | None = None
    context_tokens: Annotated[int, Meta(ge=1_024)] | None = None


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Port = 8765
    data: str = ""
    """DIR: all that is ever written is below it."""
    token: str = ""
    """The local user's token; empty: made once and kept in DIR."""
    public_url: str = ""
    allowed_origins: list[str] = []
    endpoints: dict[str, EndpointSettings] = {}
    """Only `default` is used."""
    first_byte_seconds: Seconds = 600.0
    idle_seconds: Seconds = 300.0
    probe_seconds: Seconds = 120.0
    containment: Literal["auto", "required", "off"] = "auto"
    """`auto`: as much as the host allows, and all of it beyond loopback or with several users."""
    agent_memory_mib: MiB = 2_048
    """Of one agent's whole process tree."""
    agent_processes: Annotated[int, Meta(ge=8, le=4_096)] = 64
    agent_cpu_seconds: Annotated[int, Meta(ge=10, le=86_400)] = 1_800
    trees_mib: MiB = 4_096
    """How much room the pinned copies may take before the least recently used one goes."""
    project_roots: list[str] = []
    """Folders below which a project may lie; empty: anywhere, for a single user on loopback."""
    keep_attempts: bool = False
    """Keep each attempt's files, for looking into a failure."""
    frames_days: Annotated[int, Meta(ge=1, le=3_650)] = 30
    """How long the frames of an ended run are kept."""
    log_level: str = "info"
    log_json: bool = False

    @property
    def directory(self) -> Path:
        return Path(self.data)

    @property
    def endpoint(self) -> EndpointSettings | None:
        return self.endpoints.get("default")


ENVIRONMENT = {
    "PODIUM_HOST": "host",
    "PODIUM_PORT": "port",
    "PODIUM_DATA": "data",
    "PODIUM_TOKEN": "token",
    "PODIUM_PUBLIC_URL": "public_url",
    "PODIUM_LOG_LEVEL": "log_level",
}
ENDPOINT_ENVIRONMENT = {
    "OPENAI_BASE_URL": "base_url",
    "OPENAI_API_KEY": "api_key",
    "OPENAI_MODEL": "model",
}
LEVELS = ("debug", "info", "warning", "error")


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
    values: dict[str, Any] = {"data": str(default_data())}
    sources: dict[str, str] = {}
    for source, found in (
        _from_file(file, problems),
        ("the environment", _from_environment(environment)),
        ("the command line", {k: v for k, v in flags.items() if v is not None}),
    ):
        _merge(values, found)
        sources.update(dict.fromkeys(found, source))
    settings = _convert(values, sources, problems)
    if problems or settings is None:
        raise SettingsError(problems)
    return settings


def _from_file(file: Path | None, problems: list[str]) -> tuple[str, dict[str, Any]]:
    path = file or default_file()
    if file is None and not path.exists():
        return str(path), {}
    try:
        return str(path), tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{path}: {error}")
        return str(path), {}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: environment[name] for name, key in ENVIRONMENT.items() if environment.get(name)
    }
    # A key alone never selects a remote host: without a base URL the other two are not ours.
    if environment.get("OPENAI_BASE_URL"):
        endpoint = {
            key: environment[name]
            for name, key in ENDPOINT_ENVIRONMENT.items()
            if environment.get(name)
        }
        found["endpoints"] = {"default": endpoint}
    return found


def _merge(values: dict[str, Any], found: dict[str, Any]) -> None:
    """Later sources win key by key; an endpoint of a later source replaces the earlier whole."""
    for key, value in found.items():
        values[key] = value


def _convert(
    values: dict[str, Any], sources: Mapping[str, str], problems: list[str]
) -> Settings | None:
    fields = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    good: dict[str, Any] = {}
    for key, value in values.items():
        where = sources.get(key, "the defaults")
        if key not in fields:
            problems.append(f"{where}: unknown key `{key}` (known: {', '.join(sorted(fields))})")
            continue
        try:
            good[key] = msgspec.convert(value, fields[key], strict=isinstance(value, dict))
        except msgspec.ValidationError as error:
            problems.append(f"{where}: {key}: {error}")
    if problems:
        return None
    settings = Settings(**good)
    problems.extend(_check(settings, sources))
    return settings


def _check(settings: Settings, sources: Mapping[str, str]) -> list[str]:
    """What types cannot say."""
    problems = []
    others = sorted(set(settings.endpoints) - {"default"})
    if others:
        problems.append(
            f"{sources.get('endpoints')}: endpoints.{others[0]}: only `default` is used"
        )
    for name, url in (
        ("endpoints.default.base_url", settings.endpoint.base_url if settings.endpoint else ""),
        ("public_url", settings.public_url),
        *(("allowed_origins", origin) for origin in settings.allowed_origins),
    ):
        if url and not _is_http(url):
            key = name.split(".")[0]
            problems.append(f"{sources.get(key)}: {name}: `{url}` is no http(s) URL")
    if settings.log_level not in LEVELS:
        problems.append(f"{sources.get('log_level')}: log_level: one of {', '.join(LEVELS)}")
    if settings.host not in LOOPBACK and not settings.public_url:
        problems.append(
            f"{sources.get('host')}: host: {settings.host} is beyond loopback; set public_url to "
            "the address that browsers use, so that other sites can be refused"
        )
    return problems


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
