"""Settings: defaults < file < environment < flags, and every problem at once with its place."""

from pathlib import Path

import pytest

from server.settings import SettingsError, load


def problems(flags: dict[str, object], environment: dict[str, str], file: Path) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load(flags, environment, file=file)
    return refused.value.problems


def written(place: Path, text: str) -> Path:
    file = place / "podium.toml"
    file.write_text(text)
    return file


def test_later_sources_win(tmp_path: Path) -> None:
    file = written(tmp_path, 'port = 1\nlog_level = "debug"\ndata = "d"\n')
    settings = load({"port": 3, "host": None}, {"PODIUM_PORT": "2"}, file=file)
    assert (settings.port, settings.log_level, settings.data) == (3, "debug", "d")
    assert settings.host == "127.0.0.1"


def test_the_environment_names_the_endpoint_whole(tmp_path: Path) -> None:
    file = written(tmp_path, '[endpoints.default]\nbase_url = "http://a/v1"\napi_key = "k"\n')
    from_file = load({}, {}, file=file).endpoint
    assert from_file is not None
    assert from_file.api_key == "k"
    environment = {"OPENAI_BASE_URL": "http://b/v1", "OPENAI_MODEL": "m"}
    named = load({}, environment, file=file).endpoint
    assert named is not None
    assert (named.base_url, named.model, named.api_key) == ("http://b/v1", "m", "")


def test_a_key_alone_selects_nothing(tmp_path: Path) -> None:
    settings = load({}, {"OPENAI_API_KEY": "k", "OPENAI_MODEL": "m"}, file=written(tmp_path, ""))
    assert settings.endpoint is None


def test_every_problem_is_named_with_its_place(tmp_path: Path) -> None:
    file = written(tmp_path, 'prot = 1\nidle_seconds = -1\n[endpoints.default]\nbase = "x"\n')
    found = problems({"port": 70_000}, {"PODIUM_LOG_LEVEL": "loud"}, file)
    assert len(found) == 4
    assert [str(file) in problem for problem in found].count(True) == 3
    assert any("the command line: port" in problem for problem in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "podium.toml"),
        ('host = "0.0.0.0"', "public_url"),
        ('public_url = "ftp://x"', "no http(s) URL"),
        ('[endpoints.default]\nbase_url = "localhost:1"', "no http(s) URL"),
        ('[endpoints.other]\nbase_url = "http://x/v1"', "only `default`"),
        ('log_level = "loud"', "debug, info"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in "\n".join(problems({}, {}, written(tmp_path, text)))


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    assert "none.toml" in problems({}, {}, tmp_path / "none.toml")[0]
