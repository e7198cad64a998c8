"""A guard is as strong as it was set, or there is no start: each rule says what, where and how.

Each case is one fault, and the same settings without it are taken: no rule is green because another
one is red.
"""

from pathlib import Path

import pytest

from server.settings import Settings, SettingsError, load
from server.settings.guards_of_models import unknown_roles
from tests.server.test_settings import LOCAL, problems, written

SHARED = 'host = "0.0.0.0"\npublic_url = "https://podium.example.com"\n'
REMOTE = '[endpoints.default]\nbase_url = "https://gpu.example.com/v1"\nmodel = "m"\n'
PLAIN = REMOTE.replace("https", "http") + "remote = true\n"
BIG = '[models.big]\nendpoint = "default"\nmodel = "b"\n'
TWO = 'users = ["ann", "ben"]\n'


@pytest.mark.parametrize(
    ("key", "wrong", "mended", "way_out"),
    [
        ("endpoints.default.base_url", REMOTE, REMOTE + "remote = true\n", "`remote = true`"),
        ("endpoints.default.base_url", PLAIN, PLAIN + "plaintext = true\n", "`plaintext = true`"),
        ("endpoints.default.base_url", PLAIN, PLAIN.replace("http:", "https:"), "use https"),
        (
            "endpoints.default.base_url",
            LOCAL.replace("127.0.0.1", "me:pw@127.0.0.1"),
            LOCAL + 'api_key = "pw"\n',
            "api_key_env",
        ),
        (
            "endpoints.default",
            LOCAL + 'api_key = "k"\napi_key_env = "HOME"\n',
            LOCAL + 'api_key_env = "HOME"\n',
            "keep one of them",
        ),
        (
            "endpoints.default.api_key_env",
            LOCAL + 'api_key_env = "NO_SUCH"\n',
            LOCAL + 'api_key_env = "HOME"\n',
            "NO_SUCH is not set; set it",
        ),
        (
            "endpoints.default.users",
            LOCAL + "users = []\n",
            LOCAL + 'users = ["ann"]\n',
            "length >= 1",
        ),
        (
            "models.big.users",
            'project_roots = ["ROOT"]\n' + LOCAL + 'users = ["ann"]\n' + BIG + 'users = ["ben"]\n',
            LOCAL + 'users = ["ann"]\n' + BIG + 'users = ["ann"]\n',
            "name somebody",
        ),
        (
            "models.big.endpoint",
            LOCAL + BIG.replace("default", "gpu"),
            LOCAL + BIG,
            "there are: default",
        ),
        ("models.big.model", LOCAL + BIG.replace('"b"', '""'), LOCAL + BIG, "write the name"),
        (
            "models.default",
            LOCAL + BIG.replace("models.big", "models.default"),
            LOCAL + BIG,
            "choose another name",
        ),
        (
            "roles.security",
            LOCAL + BIG + '[roles]\nsecurity = "huge"\n',
            LOCAL + BIG + '[roles]\nsecurity = "big"\n',
            "there are: default, big",
        ),
        (
            "default_model",
            'default_model = "huge"\n' + LOCAL + BIG,
            'default_model = "big"\n' + LOCAL + BIG,
            "there are: default, big",
        ),
        (
            "default_model",
            (LOCAL + BIG).replace("default", "gpu"),
            'default_model = "big"\n' + (LOCAL + BIG).replace("default", "gpu"),
            "set it to one of gpu, big",
        ),
        ("data", 'data = "/dev/shm/podium"\n', 'data = "/srv/podium"\n', "elsewhere"),
        ("data", 'data = "/srv/a,b"\n', 'data = "/srv/a b"\n', "without one"),
        ("host", 'host = "0.0.0.0"\nproject_roots = ["ROOT"]\n', LOCAL, "set public_url"),
        ("public_url", 'public_url = "ftp://x"\n', 'public_url = "https://x"\n', "no http(s) URL"),
        (
            "public_url",
            'public_url = "https://x/a;b"\n',
            'public_url = "https://x/a-b/c.d/"\n',
            "has a path",
        ),
        ("public_url", 'public_url = "https://x/../a"\n', 'public_url = "https://x/a"\n', "a path"),
        (
            "public_url",
            'public_url = "https://x/api"\n',
            'public_url = "https://x/apis"\n',
            "begins like podium's own",
        ),
        (
            "allowed_origins",
            'allowed_origins = ["https://x/a"]\n',
            'allowed_origins = ["https://x:8443"]\n',
            "an origin ends with its host",
        ),
        (
            "allowed_origins",
            'allowed_origins = ["*"]\n',
            'allowed_origins = ["https://x"]\n',
            "no http(s) URL",
        ),
        (
            "containment",
            'containment = "off"\nproject_roots = ["ROOT"]\n' + SHARED,
            'containment = "auto"\nproject_roots = ["ROOT"]\n' + SHARED,
            "set it to auto",
        ),
        (
            "containment",
            'containment = "off"\nproject_roots = ["ROOT"]\n' + LOCAL + TWO,
            'containment = "off"\n' + LOCAL + 'users = ["ann"]\n',
            "several users are named (ann, ben)",
        ),
        ("project_roots", SHARED, 'project_roots = ["ROOT"]\n' + SHARED, "name the folders"),
        (
            "project_roots",
            LOCAL + TWO,
            'project_roots = ["ROOT"]\n' + LOCAL + TWO,
            "several users are named (ann, ben)",
        ),
        ("project_roots", 'project_roots = ["code"]\n', 'project_roots = ["ROOT"]\n', "in full"),
        ("project_roots", 'project_roots = ["/"]\n', 'project_roots = ["ROOT"]\n', "whole disk"),
        (
            "project_roots",
            'project_roots = ["ROOT/none"]\n',
            'project_roots = ["ROOT"]\n',
            "is no folder; make it",
        ),
        (
            "project_roots",
            'data = "ROOT"\nproject_roots = ["ROOT"]\n',
            'data = "ROOT/data"\nproject_roots = ["ROOT"]\n',
            "data directory",
        ),
        (
            "project_roots",
            'data = "ROOT/.."\nproject_roots = ["ROOT"]\n',
            'data = "ROOT/data"\nproject_roots = ["ROOT"]\n',
            "data directory",
        ),
        ("agent_memory_mib", "agent_memory_mib = 1\n", "agent_memory_mib = 64\n", ">= 64"),
        ("agent_processes", "agent_processes = 0\n", "agent_processes = 8\n", ">= 8"),
        ("agent_cpu_seconds", "agent_cpu_seconds = 0\n", "agent_cpu_seconds = 10\n", ">= 10"),
        ("trees_mib", "trees_mib = 0\n", "trees_mib = 64\n", ">= 64"),
    ],
)
def test_each_rule_says_what_where_and_how(
    tmp_path: Path, key: str, wrong: str, mended: str, way_out: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    environment = {"HOME": "k"}
    file = written(tmp_path, wrong.replace("ROOT", str(root)))
    found = problems({}, environment, file)
    assert len(found) == 1, found
    assert f": {key}: " in found[0]
    assert way_out in found[0]
    # A rule of what is missing names the defaults; every other one the file.
    assert found[0].startswith((f"{file}: ", "the defaults: "))
    assert load({}, environment, file=written(tmp_path, mended.replace("ROOT", str(root))))


def test_no_source_gets_around_a_guard(tmp_path: Path) -> None:
    file = written(tmp_path, f'project_roots = ["{tmp_path}"]\n' + LOCAL + TWO)
    (by_variable,) = problems({}, {"PODIUM_CONTAINMENT": "off"}, file)
    assert by_variable.startswith("the environment (PODIUM_CONTAINMENT): containment")
    (by_flag,) = problems({"containment": "off"}, {}, file)
    assert by_flag.startswith("the command line: containment")
    (misspelt,) = problems({}, {"PODIUM_CONTAINMENT": "of"}, file)
    assert "auto, required, off" in misspelt
    assert load({"containment": "required"}, {}, file=file).contained_required
    beyond = {"PODIUM_HOST": "0.0.0.0", "PODIUM_PUBLIC_URL": "https://x"}
    (by_host,) = problems({"containment": "off"}, beyond, file)
    assert "listens beyond loopback" in by_host


@pytest.mark.parametrize(
    ("asked", "given", "refused"),
    [
        ("required", "auto", True),
        ("required", "off", True),
        ("auto", "off", True),
        ("auto", "required", False),
        ("off", "auto", False),
        ("required", "required", False),
    ],
)
def test_no_variable_and_no_flag_takes_away_what_the_file_asks_for(
    tmp_path: Path, asked: str, given: str, refused: bool
) -> None:
    file = written(tmp_path, f'containment = "{asked}"\n')
    by_variable: tuple[dict[str, object], dict[str, str]] = ({}, {"PODIUM_CONTAINMENT": given})
    by_flag: tuple[dict[str, object], dict[str, str]] = ({"containment": given}, {})
    for flags, environment in (by_variable, by_flag):
        if not refused:
            assert load(flags, environment, file=file).containment == given
            continue
        (found,) = problems(flags, environment, file)
        assert f"`{given}` is less than `{asked}` in {file}" in found
    # Where the file says nothing, both may.
    assert load({"containment": given}, {}, file=written(tmp_path, LOCAL)).containment == given


@pytest.mark.parametrize("secret", ['api_key = "k"', f'token = "{"t" * 16}"'])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, secret: str) -> None:
    text = f"{secret}\n{LOCAL}" if "token" in secret else f"{LOCAL}{secret}\n"
    file = written(tmp_path, text, mode=0o644)
    (found,) = problems({}, {}, file)
    assert found.startswith(f"{file}: ")
    assert f"chmod 600 {file}" in found
    assert load({}, {}, file=written(tmp_path, text, mode=0o640))
    assert load({}, {}, file=written(tmp_path, LOCAL, mode=0o644)), "there is no secret in it"


def test_a_key_from_a_file(tmp_path: Path) -> None:
    key = tmp_path / "key"
    text = f'{LOCAL}api_key_file = "{key}"\n'
    assert "cannot be read" in problems({}, {}, written(tmp_path, text))[0]
    key.write_text(" secret\n")
    key.chmod(0o644)
    assert f"chmod 600 {key}" in problems({}, {}, written(tmp_path, text))[0]
    key.chmod(0o600)
    settings = load({}, {}, file=written(tmp_path, text, mode=0o644))
    assert settings.endpoints["default"].api_key == "secret"
    key.write_text("\n")
    assert "is empty; write the key into it" in problems({}, {}, written(tmp_path, text))[0]
    key.write_text("a\nb")
    assert "no key has" in problems({}, {}, written(tmp_path, text))[0]
    relative = LOCAL + 'api_key_file = "key"\n'
    assert "write it out in full" in problems({}, {}, written(tmp_path, relative))[0]


def test_unknown_roles_are_named_with_the_closest_one() -> None:
    settings = Settings(roles={"securty": "default", "zzz": "default"}, sources={"roles": "F"})
    close, far = map(str, unknown_roles(settings, ["generalist", "security"]))
    assert close == "F: roles.securty: no flow has a role `securty`; did you mean `security`?"
    assert "there are: generalist, security" in far


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    text = 'containment = "off"\n' + REMOTE + TWO + BIG.replace("default", "x")
    with pytest.raises(SettingsError) as refused:
        load({}, {}, file=written(tmp_path, text))
    assert len(refused.value.problems) == 4
    assert all("podium.toml" in it or "the defaults" in it for it in refused.value.problems)
