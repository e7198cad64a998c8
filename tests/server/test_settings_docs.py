"""`docs/operate.md` has every key with its default, and its example is a file that is taken."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.limits import LimitSettings
from server.settings import EndpointSettings, ModelSettings, Settings, load
from server.settings.sources import ENVIRONMENT

PAGE = (Path(__file__).parents[2] / "docs" / "operate.md").read_text("utf-8")
KINDS: dict[str, type[msgspec.Struct]] = {
    "": Settings,
    "endpoints.NAME.": EndpointSettings,
    "models.NAME.": ModelSettings,
    "limits.": LimitSettings,
}
TABLES = ("limits",)
"""Keys that are tables of keys with rows of their own."""
ROWS = dict(re.findall(r"^\| `([a-zA-Z_.]+)` \| ([^|]+?) \| [^|]+ \|$", PAGE, re.MULTILINE))
"""The default by key, of the table of all keys."""


def keys() -> dict[str, Any]:
    """The default of every key, as the Structs have it."""
    return {
        f"{place}{field.name}": field
        for place, kind in KINDS.items()
        for field in msgspec.structs.fields(kind)
        if field.name != "sources"
    }


def example(place: Path) -> Path:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = place / "podium.toml"
    file.write_text(text)
    return file


def test_the_table_has_exactly_the_keys_that_there_are() -> None:
    assert set(ROWS) == set(keys())


@pytest.mark.parametrize("key", keys())
def test_the_table_has_the_default(key: str) -> None:
    field, told = keys()[key], ROWS[key]
    if field.required:
        assert told == "required"
        return
    default = field.default
    if default is msgspec.NODEFAULT:
        default = field.default_factory()
    if key in TABLES:
        assert told == "see below"
    elif default is None:
        assert not told.startswith('"'), "a key that is left out means something: it is said what"
    else:
        assert told == f"`{msgspec.json.encode(default).decode()}`"


def test_the_example_is_taken_and_shows_every_key(tmp_path: Path) -> None:
    file = example(tmp_path)
    settings = load({}, {"GPU_KEY": "k"}, file=file)
    assert settings.endpoints["gpu"].api_key == "k"
    assert settings.roles == {"security": "big"}
    text = file.read_text()
    for key in keys():
        assert re.search(rf"^(# )?{key.rpartition('.')[2]} = |\[{key}\b", text, re.MULTILINE) or (
            key.endswith("api_key") or key.endswith("api_key_file")
        ), f"{key} is not in the example"


def test_the_example_shows_the_defaults_of_all_that_is_not_about_models(tmp_path: Path) -> None:
    shown = tomllib.loads(example(tmp_path).read_text())
    for key in set(shown) - {"endpoints", "models", "roles", "default_model"}:
        field = keys()[key]
        default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        assert shown[key] == msgspec.to_builtins(default), key


@pytest.mark.parametrize("variable", [*ENVIRONMENT, "OPENAI_BASE_URL", "PODIUM_REMOTE"])
def test_every_variable_is_named(variable: str) -> None:
    assert variable in PAGE
