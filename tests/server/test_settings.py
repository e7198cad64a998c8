"""Settings: defaults < file < environment < flags, and every problem at once with its place."""

import fcntl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.admission import local_token
from server.settings import Settings, SettingsError, load
from server.settings.tables import default_data
from server.users import tokens
from server.users.tokens import kept_secret

LOCAL = '[endpoints.default]\nbase_url = "http://127.0.0.1:1/v1"\nmodel = "m"\n'


def problems(flags: dict[str, object], environment: dict[str, str], file: Path) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load(flags, environment, file=file)
    return refused.value.problems


def written(place: Path, text: str, *, mode: int = 0o600) -> Path:
    file = place / "podium.toml"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_later_sources_win(tmp_path: Path) -> None:
    file = written(tmp_path, 'port = 1\nlog_level = "debug"\ndata = "d"\n')
    settings = load({"port": 3, "host": None}, {"PODIUM_PORT": "2"}, file=file)
    assert (settings.port, settings.log_level, settings.data) == (3, "debug", "d")
    assert settings.host == "127.0.0.1"
    assert settings.source("port") == "the command line"
    assert settings.source("log_level") == str(file)
    assert settings.source("idle_seconds") == "the defaults"


def test_a_key_alone_selects_nothing(tmp_path: Path) -> None:
    settings = load({}, {"OPENAI_API_KEY": "k", "OPENAI_MODEL": "m"}, file=written(tmp_path, ""))
    assert settings.endpoints == {}
    assert settings.all_models == {}


def test_every_problem_is_named_with_its_place(tmp_path: Path) -> None:
    text = 'prot = 1\nidle_seconds = -1\n[endpoints.default]\nbase = "x"\nslots = "two"\n'
    file = written(tmp_path, text)
    found = problems({"port": 70_000}, {"PODIUM_LOG_LEVEL": "loud"}, file)
    assert len(found) == 7, found
    assert [str(file) in problem for problem in found].count(True) == 5
    for says in (
        f"{file}: prot: unknown key",
        f"{file}: idle_seconds: Expected `float` > 0",
        f"{file}: endpoints.default.base: unknown key",
        f"{file}: endpoints.default.base_url: is missing",
        f"{file}: endpoints.default.slots: Expected `int",
        "the command line: port: Expected `int` <= 65535",
        "the environment (PODIUM_LOG_LEVEL): log_level",
    ):
        assert any(problem.startswith(says) for problem in found), says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "podium.toml"),
        ('log_level = "loud"', "debug, info"),
        ("port = '8765'", "port: Expected `int`"),
        ("keep_attempts = 1", "keep_attempts: Expected `bool`"),
        ('sources = {port = "x"}', "sources: unknown key"),
        ("endpoints = 1", "[endpoints.NAME]"),
        ("[endpoints]\na = 1", "[endpoints.a]"),
        ('[endpoints."a b"]\nbase_url = "http://127.0.0.1/v1"', "endpoints.a b"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in "\n".join(problems({}, {}, written(tmp_path, text)))


def test_what_cannot_be_read_hides_no_rule_that_is_broken(tmp_path: Path) -> None:
    """As docs/operate.md says: all is said in one go."""
    remote = '[endpoints.gpu]\nbase_url = "http://gpu.example.com/v1"\n'
    both = problems({}, {}, written(tmp_path, f'prot = 1\nidle_seconds = "x"\n{remote}'))
    url = "endpoints.gpu.base_url"
    assert [told.split(": ")[1] for told in both] == ["prot", "idle_seconds", url, url]
    rules = problems({}, {}, written(tmp_path, remote))
    assert {told.split(": ")[1] for told in rules} == {"endpoints.gpu.base_url"}
    assert len(rules) == 2, "that it is remote, and that it is not encrypted"


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    assert "none.toml" in problems({}, {}, tmp_path / "none.toml")[0]


# ── the environment's endpoint ───────────────────────────────────────────────────────────────────


def test_the_environment_names_the_model_of_everything(tmp_path: Path) -> None:
    text = 'default_model = "big"\n[roles]\nsecurity = "big"\n' + LOCAL + 'api_key = "k"\n'
    text += '[models.big]\nendpoint = "default"\nmodel = "b"\n'
    environment = {"OPENAI_BASE_URL": "http://127.0.0.2/v1", "OPENAI_MODEL": "m2"}
    settings = load({}, environment, file=written(tmp_path, text))
    default = settings.endpoints["default"]
    assert (default.base_url, default.model, default.api_key) == ("http://127.0.0.2/v1", "m2", "")
    assert settings.default_name == "default"
    assert settings.roles == {}
    assert "big" in settings.all_models, "what else the file names can still be chosen"


def test_the_environment_lets_nobody_in(tmp_path: Path) -> None:
    text = LOCAL + 'users = ["ann"]\n[endpoints.b]\nbase_url = "http://[::1]/v1"\nusers = ["ben"]\n'
    text = f'project_roots = ["{tmp_path / "code"}"]\n{text}'
    (tmp_path / "code").mkdir()
    environment = {"OPENAI_BASE_URL": "http://127.0.0.2/v1"}
    settings = load({}, environment, file=written(tmp_path, text))
    assert settings.endpoints["default"].users == ["ann"]
    assert settings.contained_required, "there are still several users"


@pytest.mark.parametrize("url", ["https://api.example.com/v1", "http://10.0.0.1:8000/v1"])
def test_the_environment_leads_beyond_this_machine_only_when_it_says_so(
    tmp_path: Path, url: str
) -> None:
    file = written(tmp_path, "")
    found = problems({}, {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k"}, file)
    assert "the environment (OPENAI_BASE_URL)" in found[0]
    assert "PODIUM_REMOTE=1" in found[0]
    for said in ("0", "", "yes"):
        assert problems({}, {"OPENAI_BASE_URL": url, "PODIUM_REMOTE": said}, file)


def test_the_environment_may_say_so(tmp_path: Path) -> None:
    environment = {"OPENAI_BASE_URL": "https://api.example.com/v1", "PODIUM_REMOTE": "1"}
    assert load({}, environment, file=written(tmp_path, "")).endpoints["default"].remote
    environment["OPENAI_BASE_URL"] = "http://api.example.com/v1"
    (found,) = problems({}, environment, written(tmp_path, ""))
    assert "not encrypted" in found
    assert "plaintext = true" in found


# ── names ────────────────────────────────────────────────────────────────────────────────────────


def named(place: Path, text: str) -> Settings:
    return load({}, {}, file=written(place, text))


def test_an_endpoint_is_a_model_of_its_own_name(tmp_path: Path) -> None:
    plain = named(tmp_path, '[endpoints.gpu]\nbase_url = "http://127.0.0.1/v1"\n')
    assert list(plain.all_models) == ["gpu"]
    assert plain.default_name == "gpu", "the only one there is"
    several = named(tmp_path, LOCAL + '[models.big]\nendpoint = "default"\nmodel = "b"\n')
    assert list(several.all_models) == ["default", "big"]
    assert several.default_name == "default"
    bare = LOCAL.replace('model = "m"\n', "")
    served = named(tmp_path, bare + '[models.big]\nendpoint = "default"\nmodel = "b"\n')
    assert list(served.all_models) == ["big"]


def test_only_what_is_shared_must_be_contained(tmp_path: Path) -> None:
    assert not named(tmp_path, LOCAL).contained_required
    assert not named(tmp_path, LOCAL + 'users = ["ann"]').contained_required
    assert named(tmp_path, 'containment = "required"\n' + LOCAL).contained_required
    roots = f'project_roots = ["{tmp_path}"]\n'
    two = named(tmp_path, roots + LOCAL + 'users = ["ann", "ben"]')
    assert two.contained_required
    beyond = 'host = "0.0.0.0"\npublic_url = "https://p.example.com"\n'
    assert named(tmp_path, roots + beyond + LOCAL).contained_required


def test_a_key_is_in_no_text_of_the_settings(tmp_path: Path) -> None:
    settings = named(tmp_path, LOCAL + 'api_key = "very-secret"\n')
    assert settings.endpoints["default"].api_key == "very-secret"
    assert "very-secret" not in repr(settings.endpoints)


def test_an_empty_folder_is_the_usual_one_and_not_where_podium_was_started(tmp_path: Path) -> None:
    settings = load({}, {}, file=written(tmp_path, 'data = ""\n'))
    assert settings.directory == default_data()


@pytest.mark.parametrize(("mode", "refused"), [(0o646, True), (0o662, True), (0o664, False)])
def test_a_file_that_everyone_can_write_decides_about_no_guard(
    tmp_path: Path, mode: int, refused: bool
) -> None:
    file = written(tmp_path, 'containment = "off"\n', mode=mode)
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    for place in (file, link):
        if refused:
            assert any("can write this file" in it for it in problems({}, {}, place))
        else:
            assert load({}, {}, file=place).containment == "off"


@pytest.mark.parametrize("token", ["a", " " * 15, "x" * 15, "\u00e4" * 20])
def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path, token: str) -> None:
    file = written(tmp_path, "")
    assert "token: can be guessed" in problems({}, {"PODIUM_TOKEN": token}, file)[0]
    assert load({}, {"PODIUM_TOKEN": "x" * 16}, file=file).token == "x" * 16


@pytest.mark.parametrize("left", [b"", b"\n", b"short\n", b"\xff\xfe"])
def test_a_token_that_a_crash_cut_lets_nobody_in(tmp_path: Path, left: bytes) -> None:
    """A full disk, or a kill in the wrong moment: `Bearer ` alone would be the right token."""
    file = tmp_path / "token"
    file.write_bytes(left)
    settings = Settings(data=str(tmp_path))
    token = local_token(settings)
    assert len(token) > 40
    assert local_token(settings) == token, "it is kept"
    assert file.stat().st_mode & 0o077 == 0
    assert [place.name for place in tmp_path.iterdir()] == ["token"]


@pytest.mark.parametrize("left", [None, b"short\n"])
def test_first_starts_at_once_agree_on_the_token(tmp_path: Path, left: bytes | None) -> None:
    """Else the server that wins has another token than the file, and nobody can sign in."""
    starts = 4
    together = threading.Barrier(starts)

    def start(place: Path) -> str:
        together.wait(10)
        return kept_secret(place)

    with ThreadPoolExecutor(starts) as pool:
        for number in range(50):
            place = tmp_path / str(number) / "token"
            if left is not None:
                place.parent.mkdir()
                place.write_bytes(left)
            found = set(pool.map(start, [place] * starts))
            assert found == {place.read_text().strip()}


def test_a_token_that_another_process_never_finishes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "token"
    with place.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        monkeypatch.setattr(tokens, "PAUSE", 0)
        with pytest.raises(OSError, match="another process"):
            kept_secret(place)
    assert kept_secret(place) == place.read_text().strip()
