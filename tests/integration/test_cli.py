"""The command line as a person or a script uses it, in processes of its own."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from server.demo.app import scripted
from server.local import own_server, running_server
from tests.fakes.model import FakeModel, Gate, serving
from tests.integration.servers import podium as running
from tests.integration.test_whole_job import endpoint, repository

pytestmark = [pytest.mark.real_agent, pytest.mark.timeout(180)]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


ROOT = Path(__file__).parents[2]


class Podium:
    """Runs podium with a data and a settings directory of the test's own, and no endpoint."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.cwd = place / "here"
        self.cwd.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
        self.environment = {
            **kept,
            "XDG_CONFIG_HOME": str(place / "config"),
            "XDG_DATA_HOME": str(place / "share"),
            # This checkout's code, whatever is installed.
            "PYTHONPATH": str(ROOT),
        }

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "server", *words,
            env=self.environment, cwd=self.cwd,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def __call__(self, *words: str) -> Ended:
        process = await self.start(*words)
        out, err = await process.communicate()
        assert process.returncode is not None
        assert b"Traceback" not in err
        return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
def podium(tmp_path: Path) -> Podium:
    return Podium(tmp_path)


@pytest.fixture
def shop(tmp_path: Path) -> str:
    return str(repository(tmp_path / "shop"))


async def test_run_report_and_look_back(podium: Podium, shop: str) -> None:
    ended = await podium("run", "/code-review small shop", "--demo", "--project", shop)
    assert ended.code == 0
    assert "Scripted demo model, not a review" in ended.out
    assert "## Coverage" in ended.out
    assert "review.security: completed" in ended.err
    assert "http://" not in ended.err, "a page that ends with the command is not offered"
    assert "--keep-serving" in ended.err
    assert re.search(r"kept as run [0-9a-f]{8}: `podium serve` shows it again", ended.err)


@pytest.mark.parametrize("name", ["run", "plan"])
async def test_a_command_without_its_quotes(podium: Podium, name: str) -> None:
    ended = await podium(name, "/code-review", "small", "src")
    assert ended.code == 2
    assert (
        f'put the whole command in quotes, as podium {name} "/code-review small src"' in ended.err
    )
    other = await podium("runs", "small", "src")
    assert other.code == 2
    assert "quotes" not in other.err


async def test_json_is_frames_and_nothing_else(podium: Podium, shop: str) -> None:
    ended = await podium("run", "/code-review small shop", "--demo", "--json", "--project", shop)
    frames = [json.loads(line) for line in ended.out.splitlines()]
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[-1]["type"] == "flow_run_finished"


async def test_fail_on_a_severity(podium: Podium, shop: str) -> None:
    words = ("run", "/code-review small shop", "--demo", "--project", shop)
    process = await podium.start(*words, "--fail-on", "warning", "--keep-serving")
    assert process.stderr is not None
    link = await _said(process.stderr, b"watch it at")
    assert b"token=" not in link, "the link that signs in is for a terminal only"
    assert b"until Ctrl-C" in await _said(process.stderr, b"serving http://")
    told = await _said(process.stderr, b"to sign in")
    assert Path(told.decode().split(" in ")[-1].strip()).is_file()
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 1


async def test_the_end_of_another_commands_server_is_not_the_end_of_a_run(
    podium: Podium, shop: str
) -> None:
    """The run that used it starts one at the same address, which goes on with the run."""
    data, quick, gate = podium.place / "data", scripted(pace=0), Gate()
    # The probe makes two calls; the agents' are held.
    model = FakeModel(quick, quick, gate.hold(quick))
    async with serving(model.app) as url:
        podium.environment |= endpoint(url)
        async with own_server(data, podium.environment) as theirs:
            assert theirs.own
            run = await podium.start("run", "/code-review small", "--project", shop,
                                     "--data", str(data), "--keep-serving")  # fmt: skip
            await model.arrived(3)
        assert run.stderr is not None
        await _said(run.stderr, b"the server has ended with its command; starting another")
        await _said(run.stderr, b"connected again")
        gate.open()
        await _said(run.stderr, b"until Ctrl-C")
        run.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(run.communicate(), 120)
    assert b"## Coverage" in out, err.decode()
    assert run.returncode == 0
    assert await running_server(data) is None, "it ends with its command, too"


async def test_who_cannot_follow_the_server_says_so(podium: Podium, shop: str) -> None:
    """Its address is taken by somebody else as soon as it has ended."""
    data, quick, gate = podium.place / "data", scripted(pace=0), Gate()
    model = FakeModel(quick, quick, gate.hold(quick))
    async with serving(model.app) as url:
        podium.environment |= endpoint(url)
        async with own_server(data, podium.environment) as theirs:
            run = await podium.start("run", "/code-review small", "--project", shop,
                                     "--data", str(data))  # fmt: skip
            await model.arrived(3)
            port = urlsplit(theirs.place.url).port
            run.send_signal(signal.SIGSTOP)
        with socket.create_server(("127.0.0.1", port or 0)):
            run.send_signal(signal.SIGCONT)
            _, err = await asyncio.wait_for(run.communicate(), 120)
        gate.open()
    assert run.returncode == 1
    assert b"the server did not start" in err
    assert b"cannot listen on" in err


async def test_a_page_that_another_command_serves_is_theirs(podium: Podium, shop: str) -> None:
    """Ctrl-C leaves their server alone, and its end is the end of the waiting."""
    data = podium.place / "data"
    words = ("run", "/triage 'export fails'", "--project", shop, "--data", str(data))
    async with (
        serving(FakeModel(scripted(pace=0)).app) as url,
        running(data, Path(shop), endpoint(url)) as server,
    ):
        assert server.place is not None
        theirs = f"already served by pid {server.place.pid}".encode()
        for ends in (False, True):
            process = await podium.start(*words, "--keep-serving", "--key", "the same run")
            assert process.stderr is not None
            await _said(process.stderr, theirs)
            if ends:
                await server.stop()
            else:
                process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            assert process.returncode == 0
            assert (b"the server has ended" in err) == ends
            assert b"lost" not in err


async def test_plan_starts_nothing(podium: Podium, shop: str) -> None:
    without = await podium("plan", "/code-review large", "--project", shop)
    assert without.code == 4
    assert "podium setup" in without.err
    demo = await podium("plan", "/code-review large", "--demo", "--project", shop)
    assert demo.code == 0
    assert "scripted demo model, not a review" in demo.out
    assert "review.security" in demo.out
    assert "(0 files)" not in demo.out, "what reads no files says nothing of them"


async def test_a_running_server_is_used(podium: Podium, shop: str) -> None:
    demo = await podium.start("demo", "--port", "0")
    assert demo.stdout is not None
    url = (await demo.stdout.readline()).decode().split()[3]
    podium.environment |= {"OPENAI_BASE_URL": url, "OPENAI_MODEL": "podium-demo"}
    data = str(podium.place / "data")
    server = await podium.start("serve", "--port", "0", "--data", data, "--project", shop)
    assert server.stdout is not None
    await server.stdout.readline()
    try:
        plan = await podium("plan", "/code-review small shop", "--project", shop, "--data", data)
        assert plan.code == 0
        assert "security" in plan.out
        none = await podium("runs", "--data", data)
        assert (none.code, none.out) == (0, "")
        assert "no runs yet" in none.err
        run = await podium("run", "/triage 'export fails'", "--project", shop, "--data", data)
        assert run.code == 0
        listed = await podium("runs", "--data", data, "--json")
        run_id = json.loads(listed.out.splitlines()[0])["id"]
        assert run_id in (await podium("runs", "--data", data)).out
        report = await podium("report", run_id, "--format", "json", "--data", data)
        assert json.loads(report.out)["flow"] == "issue-triage"
        assert (await podium("watch", run_id[:8], "--data", data)).code == 0
        unknown = await podium("report", "nosuch", "--data", data)
        assert unknown.code == 2
        assert "`podium runs` lists them" in unknown.err
        ended = await podium("cancel", run_id, "--data", data)
        assert ended.code != 0
        assert "cannot cancel run in status 'completed'" in ended.err
        other = ("run", "/code-review", "--project", shop, "--data", data, "--containment")
        refused = await podium(*other, "required")
        assert refused.code == 2
        assert "podium serve --containment required" in refused.err
        scripted = ("run", "/code-review small shop", "--project", shop, "--data", data, "--demo")
        ignored = await podium(*scripted)
        assert ignored.code == 2, "that server's own model would be used"
        assert "leave --demo out" in ignored.err
        doctor = await podium("doctor", "--data", data)
        assert doctor.code == 0
        assert "podium-demo" in doctor.out
        second = await podium("serve", "--port", "0", "--data", data)
        assert second.code == 1
        assert "in use by another podium" in second.err
        place = json.loads((podium.place / "data" / "server.json").read_text())
        assert f"one serves it already: {place['url']}" in second.err
    finally:
        for process in (server, demo):
            process.send_signal(signal.SIGTERM)
            await process.communicate()


@pytest.mark.parametrize("configured", [False, True])
async def test_a_start_says_what_is_missing_and_where_the_token_is(
    podium: Podium, configured: bool
) -> None:
    if configured:
        podium.environment |= {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_MODEL": "m"}
    data = podium.place / "data"
    process = await podium.start("serve", "--port", "0", "--data", str(data))
    assert process.stdout is not None
    told = await _said(process.stdout, b"to sign in")
    process.send_signal(signal.SIGTERM)
    out, err = await process.communicate()
    token = data / "token"
    assert told.decode().endswith(f" {token}\n")
    assert token.read_bytes().strip() not in told + out + err
    assert (b"no model endpoint" in err) != configured
    assert (b"podium setup" in err) != configured


async def test_setup_finds_tries_and_writes_once(podium: Podium) -> None:
    nobody = await podium("setup", "--url", "http://127.0.0.1:9/v1")
    assert nobody.code == 4
    assert nobody.out.count("no model answers at 127.0.0.1:9") == 1
    assert "trying http://127.0.0.1:9/v1" in nobody.out
    demo = await podium.start("demo", "--port", "0")
    assert demo.stdout is not None
    url = (await demo.stdout.readline()).decode().split()[3]
    try:
        data = podium.place / "elsewhere"
        first = await podium("setup", "--url", url, "--data", str(data))
        assert first.code == 0
        assert f"now: podium run --data {data} /code-review\n" in first.out
        file = podium.place / "config" / "podium" / "podium.toml"
        assert f'base_url = "{url}"' in file.read_text()
        assert file.stat().st_mode & 0o777 == 0o600
        assert "model default (default): podium-demo at 127.0.0.1" in first.out
        assert "for everyone" in first.out
        doctor = await podium("doctor")
        assert doctor.code == 0
        assert "podium-demo" in doctor.out
        mine = f"log_json = true # mine\n{file.read_text()}[roles]\nsecurity = 'default'\n"
        file.write_text(mine)
        again = await podium("setup", "--url", url)
        assert again.code == 0
        assert "names it already" in again.out
        assert "now: podium run /code-review\n" in again.out
        assert "(default, security)" in again.out
        assert file.read_text() == mine
        file.write_text(mine.replace("security", "securty"))
        misspelt = await podium("doctor")
        assert misspelt.code == 4
        assert "did you mean `security`?" in misspelt.out
        refused = await podium("serve", "--port", "0")
        assert refused.code == 2
        assert "did you mean `security`?" in refused.err
    finally:
        demo.send_signal(signal.SIGTERM)
        await demo.communicate()


async def test_flows_explain_themselves(podium: Podium) -> None:
    one = await podium("flows", "/review")
    assert one.code == 0
    assert '/code-review [band] [--base REF] [paths…] ["focus"]' in one.out
    everything = await podium("flows", "--json")
    names = [json.loads(line)["name"] for line in everything.out.splitlines()]
    assert names == ["code-review", "issue-triage"]


async def test_interrupt_cancels_the_run_and_leaves_no_process(podium: Podium, shop: str) -> None:
    words = ("run", "/code-review small shop", "--demo", "--project", shop)
    process = await podium.start(*words)
    assert process.stderr is not None
    async for line in process.stderr:
        if b"running" in line and b"review." in line:
            break
    process.send_signal(signal.SIGINT)
    out, _ = await process.communicate()
    assert process.returncode == 130
    assert b"Coverage" in out
    marker = str(podium.place).encode()
    left = [
        pid
        for pid in Path("/proc").glob("[0-9]*")
        if marker in _read(pid / "cmdline") or marker in _read(pid / "environ")
    ]
    assert left == []


async def test_a_server_that_is_gone_is_told_and_can_be_left(podium: Podium, shop: str) -> None:
    gate = Gate()
    model = FakeModel(quick := scripted(pace=0), quick, gate.hold(quick))
    data = podium.place / "data"
    async with (
        serving(model.app) as url,
        running(data, Path(shop), endpoint(url)) as server,
    ):
        words = ("run", "/code-review small shop", "--project", shop, "--data", str(data))
        process = await podium.start(*words)
        assert process.stderr is not None
        await _said(process.stderr, b"review.security: running")
        await server.kill()
        await _said(process.stderr, b"the connection to the server is lost")
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert b"podium watch" in err


async def test_a_server_that_comes_back_is_followed_to_the_end(podium: Podium, shop: str) -> None:
    """Killed while agents run, and started again where it was: everything is printed, once."""
    gate = Gate()
    model = FakeModel(quick := scripted(pace=0), quick, gate.hold(quick))
    data = podium.place / "data"
    async with (
        serving(model.app) as url,
        running(data, Path(shop), endpoint(url)) as server,
    ):
        words = ("run", "/code-review small shop", "--json", "--project", shop, "--data", str(data))
        process = await podium.start(*words)
        assert process.stderr is not None
        await model.arrived(3)
        await server.kill()
        await _said(process.stderr, b"the connection to the server is lost")
        await server.start()
        await _said(process.stderr, b"connected again")
        gate.open()
        out, _ = await process.communicate()
    assert process.returncode == 0
    frames = [json.loads(line) for line in out.splitlines()]
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert "server_restarted" in {frame.get("reason") for frame in frames}
    assert frames[-1]["status"] == "completed"


async def _said(stream: asyncio.StreamReader, words: bytes) -> bytes:
    """The line that has these words, once it is said."""
    async for line in stream:
        if words in line:
            return line
    pytest.fail(f"never said: {words!r}")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("run", "/nope"), 2, "the flows: /code-review, /issue-triage"),
        (("run", "/code-reviwe"), 2, "code-review"),
        (("run", "/code-review --nope"), 2, "--base"),
        (("run", '/code-review "unfinished'), 2, "quote"),
        (("run", "/code-review", "--project", "missing"), 2, "missing"),
        (("run", "/code-review", "--project", __file__), 2, "is a file"),
        (("run", ""), 2, "the flows: /code-review, /issue-triage"),
        (("run", "/flows"), 2, "the flows: /code-review, /issue-triage"),
        (("runs", "--help"), 0, "Runs as JSON lines."),
        (("plan", "--help"), 0, "The plan as JSON."),
        (("run", "/code-review"), 4, "podium setup"),
        (("flows", "nope"), 2, "there are"),
        (("serve", "--port", "99999"), 2, "port"),
        (("serve", "--host", "0.0.0.0"), 2, "public_url"),
        (("serve", "--host", "0.0.0.0", "--containment", "off"), 2, "`off` is not allowed"),
        (("run", "/code-review", "--containment", "none"), 2, "required"),
        (("serve", "--port", "0", "--project", "missing"), 2, "does not exist"),
        (("watch", "x"), 1, "podium serve"),
        (("doctor",), 4, "podium setup"),
        (("nope",), 2, "No such command"),
    ],
)
async def test_wrong_use_is_one_clear_line(
    podium: Podium, words: tuple[str, ...], code: int, says: str
) -> None:
    ended = await podium(*words)
    assert ended.code == code
    assert says in ended.err + ended.out


@pytest.mark.parametrize("group", [(), ("user",)])
async def test_the_help_says_every_command_in_a_whole_line(
    podium: Podium, group: tuple[str, ...]
) -> None:
    ended = await podium(*group, "--help")
    commands = ended.out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(commands) >= 5
    assert [line for line in commands if not re.fullmatch(r"  \w+ +[A-Z].*[^.]\.", line)] == []


async def test_bad_settings_name_every_problem_and_its_place(podium: Podium) -> None:
    folder = podium.place / "config" / "podium"
    folder.mkdir(parents=True)
    (folder / "podium.toml").write_text("prot = 1\nidle_seconds = -1\n")
    podium.environment |= {"PODIUM_PORT": "x", "PODIUM_TOKNE": "of-nobody"}
    examined = await podium("doctor")
    assert examined.code == 2
    told = [line for line in examined.out.splitlines() if line.startswith("✗ settings: ")]
    assert "podium.toml: prot: unknown key; did you mean `port`?" in told[0]
    assert "idle_seconds" in told[1]
    assert "the environment (PODIUM_PORT): port: " in told[2]
    assert (
        "– environment: PODIUM_TOKNE is not read\n    → did you mean PODIUM_TOKEN?" in examined.out
    )
    for words in (("serve", "--port", "0"), ("user", "list"), ("run", "/code-review"), ("audit",)):
        ended = await podium(*words)
        assert ended.code == 2
        # A flag of the command stands over the variable.
        lines = [line.removeprefix("✗ settings: ") for line in told if "PORT" not in line]
        assert "Error: " + "\n".join(lines) in ended.err
        assert "podium: PODIUM_TOKNE is not read\n  → did you mean PODIUM_TOKEN?\n" in ended.err
        assert "of-nobody" not in examined.out + ended.err


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
