"""Settings with many faults: all of them in one go and in order, bounded, and no secret in them."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from server.commands.doctor import settings as doctor_settings
from server.settings import SettingsError, load, sources, values
from server.settings.faults import LONGEST, SHOWN, near
from server.settings.sources import MOST_BYTES, MOST_DOTS, misspelt
from tests.server.test_settings import LOCAL, problems, written

SECRET = "sk-very-secret-0123456789"
LINE = 4 * LONGEST
"""No sentence is longer, whatever the file says: it has few texts of the file in it."""


def keys(found: list[str]) -> list[str]:
    return [problem.split(": ")[1] for problem in found]


# ── all, in order ────────────────────────────────────────────────────────────────────────────────


def test_faults_stand_in_the_order_of_the_file_and_then_of_the_other_sources(
    tmp_path: Path,
) -> None:
    text = """
project_roots = ["code"]
idle_seconds = -1
public_url = "ftp://x"
prot = 1
[models.big]
model = ""
endpoint = "gone"
[limits]
fragments = 0
[endpoints.gpu]
slots = "two"
base_url = "http://gpu.example.com/v1"
remote = true
api_key_env = "NO_SUCH"
"""
    environment = {"PODIUM_LOG_LEVEL": "loud", "PODIUM_CONTAINMENT": "of"}
    file = written(tmp_path, text)
    found = problems({"port": 70_000}, environment, file)
    assert keys(found) == [
        "project_roots", "idle_seconds", "public_url", "prot",
        "models.big.model", "models.big.endpoint", "limits.fragments",
        "endpoints.gpu.slots", "endpoints.gpu.base_url", "endpoints.gpu.api_key_env",
        "default_model", "containment", "log_level", "port",
    ]  # fmt: skip
    places = [problem.split(": ")[0] for problem in found]
    assert places[:10] == [str(file)] * 10
    assert places[10:] == [
        "the defaults",
        "the environment (PODIUM_CONTAINMENT)", "the environment (PODIUM_LOG_LEVEL)",
        "the command line",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("agent_processes = 1", "agent_processes: Expected `int` >= 8; 8 to 4096"),
        ("port = true", "port: Expected `int`, got `bool`; 0 to 65535"),
        ("stall_seconds = 1e9", "more than 0, at most 86400"),
        ("keep_attempts = 1", "keep_attempts: Expected `bool`, got `int`; true or false"),
        ('containment = "of"', "one of auto, required, off"),
        ('[endpoints.a]\nbase_url = "http://[::1]/"\nslots = "x"', "got `str`; 1 to 256"),
        ('[endpoints.a]\nbase_url = "http://[::1]/"\nusers = ["a b"]', "entry 1: is no user: 1 to"),
        ('allowed_origins = ["https://x", 3]', "allowed_origins: entry 2: Expected `str`, got"),
        ("[roles]\nsecurity = 3", "roles.security: Expected `str`, got `int`"),
        ('[endpoints."a b"]\nbase_url = "http://[::1]/"', "endpoints.a b: is no name: letters"),
        ('data = "a\\u0000b"', "cannot be used as a path"),
        ("data = 0", "data: Expected `str`, got `int`"),
        ("port = " + "9" * 5_000, "has a number that is too long"),
        ('[endpoints.a]\nbase_url = "http://[::1]/"\napi_key_file = "/a\\u0000b"', "it is no path"),
        ('[endpoints.a]\nbase_url = "http://[::1]/"\napi_key_file = "~nobody-x/k"', "is no path"),
    ],
)
def test_a_single_fault_says_what_is_allowed(tmp_path: Path, text: str, says: str) -> None:
    (found,) = problems({}, {}, written(tmp_path, text))
    assert says in found


# ── rules need what they speak of ────────────────────────────────────────────────────────────────

BEYOND = 'host = "0.0.0.0"\nproject_roots = ["ROOT"]\n'


@pytest.mark.parametrize(
    ("rule", "whole", "doubtful", "fault"),
    [
        ("host", BEYOND, "public_url = 3\n" + BEYOND, "public_url"),
        ("host", BEYOND, 'public_ulr = "https://x"\n' + BEYOND, "public_ulr"),
        ("host", BEYOND, BEYOND + '[limits]\npublic_url = "https://x"\n', "limits.public_url"),
        (
            "models.big.endpoint",
            LOCAL + '[models.big]\nendpoint = "gpu"\nmodel = "b"\n',
            LOCAL + '[models.big]\nendpoint = "gpu"\nmodel = "b"\n[endpoints]\ngpu = 1\n',
            "endpoints.gpu",
        ),
        (
            "default_model",
            'default_model = "x"\n' + LOCAL,
            'default_model = "x"\nmodel = 3\n' + LOCAL,
            "model",
        ),
        ("roles.a", LOCAL + '[roles]\na = "x"\n', LOCAL + '[roles]\na = "x"\n[model.x]\n', "model"),
        (
            "endpoints.gpu.base_url",
            '[endpoints.gpu]\nbase_url = "https://gpu.example.com"\n',
            '[endpoints.gpu]\nbase_url = "https://gpu.example.com"\nremoet = true\n',
            "endpoints.gpu.remoet",
        ),
    ],
)
def test_a_rule_waits_for_what_it_needs(
    tmp_path: Path, rule: str, whole: str, doubtful: str, fault: str
) -> None:
    def found(text: str) -> list[str]:
        return keys(problems({}, {}, written(tmp_path, text.replace("ROOT", str(tmp_path)))))

    assert found(whole) == [rule], "it is broken as soon as it can be held against something"
    assert found(doubtful) == [fault]


def test_a_file_that_cannot_be_read_breaks_no_rule_and_hides_no_variable(tmp_path: Path) -> None:
    environment = {"PODIUM_HOST": "0.0.0.0", "PODIUM_PORT": "x"}
    file = written(tmp_path, 'public_url = "https://x\n')
    unread, port = problems({}, environment, file)
    assert unread.startswith(f"{file}: ")
    assert "(PODIUM_PORT)" in port
    assert "set public_url" in "".join(problems({}, environment, written(tmp_path, "")))


# ── what was meant ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "prot: unknown key; did you mean `port`?"),
        ("LOG_LEVEL = 'info'", "LOG_LEVEL: unknown key; did you mean `log_level`?"),
        ("[endpoint.gpu]\na = 1", "endpoint: unknown key; did you mean `endpoints`?"),
        ("[model.x]\na = 1", "model: unknown key; did you mean `models`?"),
        ("[limits]\nsubscription = 1", "did you mean `subscriptions`?"),
        ("[limits]\nport = 1", "limits.port: unknown key; it belongs above the first [table]"),
        ("fragments = 1", "fragments: unknown key; it belongs into [limits]"),
        ("api_key = 'k'", "api_key: unknown key; it belongs into [endpoints.NAME]"),
        ("[models.a]\nendpoint = 'a'\nmodel = 'm'\nzzz = 1", "zzz: unknown key (known: context"),
        ("zzz = 1", "zzz: unknown key (known: agent_cpu_seconds, "),
    ],
)
def test_an_unknown_key_is_told_the_known_one(tmp_path: Path, text: str, says: str) -> None:
    assert says in "\n".join(problems({}, {}, written(tmp_path, text)))


def test_the_keys_of_a_table_are_listed_once(tmp_path: Path) -> None:
    text = "zzz = 1\nyyy = 1\n[limits]\nzzz = 1\nyyy = 1\n"
    top, again, limit, limit_again = problems({}, {}, written(tmp_path, text))
    assert "(known: agent_cpu_seconds, " in top
    assert again.endswith("yyy: unknown key")
    assert "(known: fragments, " in limit
    assert limit_again.endswith("limits.yyy: unknown key")


def test_a_variable_that_was_meant_for_podium_is_named_without_its_value() -> None:
    environment = {"PODIUM_TOKNE": SECRET, "PODIUM_REMOT": "1", "PODIUM_FRAMES_DAYS": SECRET}
    told = dict(misspelt({**environment, "PODIUM_TOKEN": SECRET, "PODIUM_REMOTE": "1"}))
    assert told["PODIUM_TOKNE"] == "did you mean PODIUM_TOKEN?"
    assert told["PODIUM_REMOT"] == "did you mean PODIUM_REMOTE?"
    assert told["PODIUM_FRAMES_DAYS"].startswith("`frames_days` is set in ")
    assert set(told) == set(environment)
    assert SECRET not in str(told)


def test_variables_of_others_are_none_of_podiums() -> None:
    """Of a cluster that has a service of that name, of a chat back-end, and of these tests."""
    others = """
    PODIUM_SERVICE_HOST PODIUM_SERVICE_PORT PODIUM_PORT_8765_TCP PODIUM_PORT_8765_TCP_ADDR
    PODIUM_PORT_8765_TCP_PORT PODIUM_PORT_8765_TCP_PROTO PODIUM_URL PODIUM_SERVICE_TOKEN
    PODIUM_TEST_QWEN PODIUM_TEST_NODE PODIUM_SELF_TEST PODIUM_SOAK_HOURS PODIUM_NO_SKIPS
    PODIUM_BENCH_PEERS PODIUM_SKIP_APT PATH PODIU_TOKEN
    """.split()
    assert list(misspelt(dict.fromkeys(others, "x"))) == []


def test_many_misspelt_variables_are_few_lines() -> None:
    many = {f"PODIUM_TOKEN{number}": "x" for number in range(1_000)}
    assert len(list(misspelt(many))) == SHOWN


# ── the doctor ───────────────────────────────────────────────────────────────────────────────────


def test_the_doctor_shows_every_fault_as_a_failed_check(tmp_path: Path) -> None:
    file = written(tmp_path, "prot = 1\nidle_seconds = -1\n")
    with pytest.raises(SettingsError) as error:
        load({}, {}, file=file)
    found = doctor_settings.refused(error.value, {"PODIUM_TOKNE": SECRET})
    failed = [it.says for it in found if it.required and not it.well]
    assert failed == error.value.problems
    assert len(failed) == 2
    assert next(it.says for it in found if not it.required) == "PODIUM_TOKNE is not read"
    (well,) = doctor_settings.read(file, {})
    assert (well.well, well.says) == (True, str(file))
    (none,) = doctor_settings.read(tmp_path / "none.toml", {})
    assert none.well
    assert "none.toml" in none.says


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────

AT = '[endpoints.a]\nbase_url = "http://127.0.0.1/v1"\n'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f'token = ["{SECRET}"]', "token"),
        (f'token = {{"a" = "{SECRET}"}}', "token"),
        (f"token = {SECRET}", ""),
        (f"token = '{SECRET}", ""),
        (f'token = "{SECRET[:9]}"', "token"),
        (f'[token]\nkey = "{SECRET}"', "token"),
        (f'tokne = "{SECRET}"', "tokne"),
        (f'api_key = "{SECRET}"', "api_key"),
        (f'{AT}api_key = ["{SECRET}"]', "endpoints.a.api_key"),
        (f'{AT}api_key = "{SECRET}\\u00e4"', "endpoints.a.api_key"),
        (f'{AT}api_key = "{SECRET}"\napi_key_env = "A"', "endpoints.a"),
        (f'{AT}apikey = "{SECRET}"', "endpoints.a.apikey"),
        (f'{AT}api_key_env = "{SECRET}"', "endpoints.a.api_key_env"),
        (f'{AT}api_key_file = "{SECRET}"', "endpoints.a.api_key_file"),
        (f'[endpoints.a]\nbase_url = "https://me:{SECRET}@x/v1"', "endpoints.a.base_url"),
        (f'[endpoints.a]\nbase_url = "https://x/v1?key={SECRET}"', "endpoints.a.base_url"),
        (f'public_url = "https://x/?{SECRET}"', "public_url"),
    ],
)
def test_no_secret_is_repeated(tmp_path: Path, text: str, key: str) -> None:
    file = written(tmp_path, text)
    environment = {"OPENAI_API_KEY": SECRET, "PODIUM_PORT": "x"}
    found = problems({}, environment, file)
    assert len(found) == 2, "the fault, and the variable's"
    assert found[0].startswith(f"{file}: {key}")
    assert SECRET[:9] not in "".join(found)
    # By a variable, too.
    (token,) = problems({}, {"PODIUM_TOKEN": f"{SECRET}\u00e4"}, written(tmp_path, ""))
    assert SECRET[:9] not in token


# ── hostile files ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"key_{number} = 1" for number in range(15_000)),
        "\n".join(f"[limits.port{number}]" for number in range(10_000)),
        "\n".join(f"[endpoints.e{number}]\nslots = 0" for number in range(6_000)),
        "\n".join(f'[models.m{number}]\nendpoint = "x"\nmodel = ""' for number in range(5_000)),
        "[roles]\n" + "\n".join(f'r{number} = "x"' for number in range(10_000)),
        f"{LOCAL}users = [" + ",".join(f'"user-{number}"' for number in range(15_000)) + "]",
        f'host = "{"x" * 100_000}"\nlog_level = "{"y" * 100_000}"',
        f'"{"x" * 200_000}" = 1',
        f'[endpoints."{"x" * 200_000}"]\nx = 1',
        f'[roles]\n"{"x" * 100_000}" = "{"y" * 100_000}"',
        f'project_roots = ["/{"x" * 100_000}"]\npublic_url = "{"y" * 100_000}"',
        f'[endpoints.a]\nbase_url = "https://{"x" * 100_000}/v1"',
        f'[endpoints.a]\nbase_url = "http://[::1]/"\napi_key_file = "/{"x" * 100_000}"',
        f'[endpoints.a]\nbase_url = "http://[::1]/"\napi_key_env = "{"X" * 100_000}"',
        f'data = "{"x" * 100_000},"',
        "a = " + "[" * 100_000,
        "a = " + "{a = " * 20_000,
        "a = 1\n" * 2,
        ".".join("a" * 100_000) + " = 1",
        f"[{'.'.join('a' * 100_000)}]",
        "#" * (MOST_BYTES + 1),
        '"\\u001b[2J\\n✓ fine" = 1\nlog_level = "\\u001b[2J\\n"',
    ],
    ids=lambda text: text[:20],
)
def test_a_hostile_file_is_few_short_lines(tmp_path: Path, text: str) -> None:
    found = problems({}, {}, written(tmp_path, text))
    assert len(found) <= SHOWN + 1
    assert [line for line in found if len(line) > LINE + len(str(tmp_path))] == []
    assert [line for line in found if not line.isprintable()] == []


def test_the_faults_that_are_not_shown_are_counted(tmp_path: Path) -> None:
    def of(number: int) -> list[str]:
        return problems({}, {}, written(tmp_path, "".join(f"k{it} = 1\n" for it in range(number))))

    assert len(of(SHOWN)) == SHOWN
    assert keys(of(SHOWN))[-1] == f"k{SHOWN - 1}", "the last one itself"
    many = of(SHOWN + 7)
    assert many[:-1] == of(SHOWN)
    assert many[-1] == "and 7 more"


def test_no_more_guesses_are_made_than_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guesses: list[str] = []

    def counted(name: str, known: Iterable[str]) -> str | None:
        guesses.append(name)
        return near(name, known)

    monkeypatch.setattr(values, "near", counted)
    problems({}, {}, written(tmp_path, "".join(f"prot{it} = 1\n" for it in range(500))))
    assert len(guesses) == SHOWN


def test_only_the_bounds_keep_a_long_line_and_a_large_file_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = written(tmp_path, ".".join("a" * (MOST_DOTS + 2)) + " = 1")
    assert "dots in one line" in problems({}, {}, deep)[0]
    monkeypatch.setattr(sources, "MOST_DOTS", MOST_DOTS + 1)
    assert "unknown key" in problems({}, {}, deep)[0]
    large = written(tmp_path, "#" * (MOST_BYTES + 1))
    assert "is larger than" in problems({}, {}, large)[0]
    monkeypatch.setattr(sources, "MOST_BYTES", MOST_BYTES + 1)
    assert load({}, {}, file=large).port == 8765
    assert "is larger than" in problems({}, {}, Path(os.devnull).with_name("zero"))[0]
