"""The containment with the real bubblewrap and the real Node: what gets out of it, and what of it
outlives the server. Each attack is also made without it, and then succeeds."""

import asyncio
import ctypes
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.routing import Mount

from protocol.resources import Level, SelfTest
from server.agents.containment import ladder
from server.agents.containment.cage import (
    BASE_URL,
    ESCAPED,
    NODE,
    PLACES,
    PORT,
    UNREPORTED,
    Found,
    confined,
)
from server.agents.containment.self_test import SelfTests
from tests.fakes.model import FakeModel, calls
from tests.fakes.scripted import Relay, Scripted, allowed, marked, scripted, until

pytestmark = pytest.mark.timeout(90)

HELD = SelfTests(
    write=SelfTest.FAILED_AS_IT_MUST,
    network=SelfTest.FAILED_AS_IT_MUST,
    processes=SelfTest.FAILED_AS_IT_MUST,
)
ESCAPE = Path(__file__).with_name("escape.js").read_text()
NATIVE = Path(__file__).with_name("native.py").read_text()
NATIVES = [
    "search_keys", "nested_user", "nested_user_by_clone", "mount", "remount", "trace",
    "read_memory", "enter", "change_root", "raw_socket", "device",
]  # fmt: skip
HANGS_ON_THE_HOST = {"read_through_proc"}
"""Who may look through the first process of the host, and where that leads, is the host's."""
HARMLESS_NATIVES = ["search_keys", "nested_user", "nested_user_by_clone"]


@pytest.fixture
def found() -> Found:
    return allowed()


# --- what this host allows ----------------------------------------------------------------------


async def test_every_level_is_tried_and_found_here(found: Found) -> None:
    assert found.levels == tuple(Level)
    assert found.complete
    assert (found.reason, found.hint) == (None, None)
    assert found.proc


async def test_a_node_that_does_not_start_inside_is_said(tmp_path: Path, found: Found) -> None:
    wrapper = tmp_path / "node"
    wrapper.write_text(f"#!{sys.prefix}/bin/python\n")
    wrapper.chmod(0o755)
    without = await ladder.examine(wrapper, tmp_path)
    assert without.levels == ()
    assert without.reason is not None
    assert "Node does not start" in without.reason


# --- getting out --------------------------------------------------------------------------------


class Outside:
    """What of the host an escape may reach, all of it the test's own."""

    def __init__(self, here: Scripted, victim: int, abstract: str, shared: Path) -> None:
        self.here = here
        self.victim = victim
        self.abstract = abstract
        self.shared = shared
        self.secret = here.place / "secret"
        self.secret.write_text("hush")
        for name in ("b.py", "d.py"):
            (here.tree / name).write_text("")

    async def escape(self, found: Found | None) -> dict[str, Any]:
        target = {
            "tree": str(self.here.tree),
            "host": str(self.secret),
            "data": str(self.here.place / "data"),
            "shared": str(self.shared),
            "socket": str(self.here.place / "relay.sock"),
            "abstract": self.abstract,
            "port": self.here.canary,
            "pid": self.victim,
            "native": NATIVE,
            "natives": NATIVES if found else HARMLESS_NATIVES,
            "inside": found is not None,
        }
        process = await self.here.start(ESCAPE, found=found)
        await process.prompt(json.dumps(target))
        await until(lambda: process.exit_code is not None)
        assert process.exit_code == 0, self.here.errors()
        reached: dict[str, Any] = json.loads(self.here.said())
        return reached


@contextmanager
def outside(here: Scripted) -> Iterator[Outside]:
    abstract = f"podium-test-{uuid.uuid4()}"
    shared = Path("/dev/shm") / abstract
    shared.write_text("hush")
    victim = subprocess.Popen(["/bin/sleep", "600"])
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{abstract}")
            listener.listen()
            yield Outside(here, victim.pid, abstract, shared)
    finally:
        shared.unlink()
        victim.kill()
        victim.wait()


@pytest.fixture
def key_of_the_session() -> Iterator[None]:
    """A key in the session's keyring, which every child has."""
    libc = ctypes.CDLL(None, use_errno=True)
    x86 = os.uname().machine == "x86_64"
    add, control = (248, 250) if x86 else (217, 219)
    key = libc.syscall(add, b"user", b"podium-test", b"hush", ctypes.c_size_t(4), -3)
    assert key > 0, os.strerror(ctypes.get_errno())
    yield
    libc.syscall(control, 21, key)


@pytest.mark.usefixtures("key_of_the_session")
async def test_nothing_gets_out(tmp_path: Path, found: Found) -> None:
    async with scripted(tmp_path) as here:
        with outside(here) as host:
            reached = await host.escape(found)
            assert [name for name, came in reached.items() if came is True] == []
            assert reached.keys() >= set(NATIVES)
            files = sorted(path.name for path in here.tree.iterdir())
            assert files == ["a.py", "b.py", "d.py"]
            assert (here.tree / "a.py").read_text() == "A = 1\n"
            assert here.relay.reports == [HELD]

            # The negative control: the same script, the same host, no containment.
            reached = await host.escape(None)
            refused = {name for name, came in reached.items() if came is not True}
            assert refused <= HANGS_ON_THE_HOST
            assert (here.tree / "a.py").read_text() == "A = 4\n"


async def test_the_environment_is_ours_alone(tmp_path: Path, found: Found) -> None:
    script = """
        const { execFileSync } = require('node:child_process');
        console.log(JSON.stringify([process.env, process.execArgv, process.cwd(),
          execFileSync('/usr/bin/env').toString()]));
    """
    async with scripted(tmp_path) as here:
        await here.run(script, found=found)
        environment, options, cwd, inherited = json.loads(here.said())
    assert environment.keys() == {"HOME", "PATH", "OPENAI_API_KEY", "MARK", "TMPDIR"}
    assert options == [], "a child of the program loads nothing of ours"
    assert cwd == str(PLACES.cwd)
    assert "PODIUM" not in inherited


async def test_nobody_reads_the_token_off_a_command_line(tmp_path: Path, found: Found) -> None:
    async with scripted(tmp_path) as here:
        launch = here.launch("", found=found)
    assert not any("the-token" in word for word in launch.command)


# --- the self-test ------------------------------------------------------------------------------


LEVELS = {level: tuple(other for other in Level if other is not level) for level in Level}
FIELDS = dict(zip(Level, ("write", "network", "processes"), strict=True))


@pytest.mark.parametrize("level", [Level.NETWORK, Level.PROCESSES])
async def test_a_level_that_is_not_there_is_told_and_nothing_is_tried(
    tmp_path: Path, found: Found, level: Level
) -> None:
    without = msgspec.structs.replace(found, levels=LEVELS[level], proc=level is Level.NETWORK)
    async with scripted(tmp_path) as here:
        process = await here.run("console.log('ran')", found=without)
        assert process.exit_code == 0, here.errors()
        (report,) = here.relay.reports
    assert report == msgspec.structs.replace(HELD, **{FIELDS[level]: SelfTest.NOT_RUN})


GUARDS = {
    "--unshare-net": Level.NETWORK,
    "--unshare-pid": Level.PROCESSES,
    "--ro-bind TREE": Level.FILESYSTEM,
    # Only a server of root's has agents that could use it.
    **({"--remount-ro /proc": Level.FILESYSTEM} if os.geteuid() == 0 else {}),
}


@pytest.mark.parametrize("guard", GUARDS)
async def test_what_succeeds_ends_the_process_before_its_program(
    tmp_path: Path, found: Found, guard: str
) -> None:
    """The guard is taken away behind the self-test's back: it sees that and says so."""
    level = GUARDS[guard]
    async with scripted(tmp_path) as here:
        launch = here.launch("console.log('ran')", found=found)
        launch = launch._replace(command=_without(guard, launch.command, here.tree))
        process = await here.start_launch(launch)
        await until(lambda: process.exit_code is not None)
        await process.kill()
        (report,) = here.relay.reports
        assert process.exit_code == ESCAPED
        assert here.said() == "", "the program never ran"
        assert getattr(report, FIELDS[level]) is SelfTest.SUCCEEDED, report
        assert f"podium self-test: {level}: " in here.errors()
        # Even where it succeeds it leaves everything as it was.
        assert [path.name for path in here.tree.iterdir()] == ["a.py"]
        assert (here.tree / "a.py").read_text() == "A = 1\n"


def _without(guard: str, command: list[str], tree: Path) -> list[str]:
    words = [str(tree) if word == "TREE" else word for word in guard.split()]
    place = next(n for n in range(len(command)) if command[n : n + len(words)] == words)
    weaker = {"--ro-bind": ["--bind", str(tree)], "--unshare-pid": []}.get(words[0], [])
    left = [*command[:place], *weaker, *command[place + len(words) :]]
    if guard == "--unshare-pid":
        # Without processes of its own it may only have the host's /proc.
        place = left.index("--proc")
        left[place : place + 2] = ["--dev-bind", "/proc", "/proc"]
    return left


async def test_a_file_of_the_host_that_can_be_seen_is_an_escape(
    tmp_path: Path, found: Found
) -> None:
    async with scripted(tmp_path) as here:
        cage = msgspec.structs.replace(here.cage(), hidden=(Path("/usr/bin/env"),))
        launch = confined([str(NODE), "-e", "0"], {}, found=found, cage=cage)
        process = await here.start_launch(launch)
        await until(lambda: process.exit_code is not None)
        await process.kill()
        assert process.exit_code == ESCAPED
        assert "saw /usr/bin/env" in here.errors()


async def test_a_report_that_is_not_taken_ends_the_process(tmp_path: Path, found: Found) -> None:
    async with scripted(tmp_path, Relay(status=403)) as here:
        process = await here.run("console.log('ran')", found=found)
        assert process.exit_code == UNREPORTED
        assert here.said() == ""
        assert "the relay answered 403" in here.errors()


async def test_the_program_reaches_the_relay_and_may_end(tmp_path: Path, found: Found) -> None:
    """Requests are carried whole, and an open connection keeps no program from ending."""
    script = """
        const body = JSON.stringify({ model: 'fake', stream: false, messages:
          [{ role: 'user', content: 'x'.repeat(3e6) }] });
        const headers = { 'content-type': 'application/json' };
        fetch('%s/chat/completions', { method: 'POST', headers, body })
          .then(async (answer) => console.log(answer.status, (await answer.text()).length > 0));
    """
    model = FakeModel(calls("structured_output", {"word": "yes"}))
    async with scripted(tmp_path, Relay(Mount("/", model.app))) as here:
        process = await here.run(script % BASE_URL, found=found)
        assert (process.exit_code, here.said()) == (0, "200 true\n"), here.errors()
    assert here.canary != PORT
    assert len(str(model.requests[0].messages)) > 3_000_000


# --- nothing outlives the server ----------------------------------------------------------------


async def test_a_killed_server_takes_the_contained_tree_with_it(
    tmp_path: Path, found: Found
) -> None:
    await dies_with_its_server(tmp_path, contained=True)


async def dies_with_its_server(place: Path, *, contained: bool) -> None:
    """kill -9 of a server whose agent has children that hide in every way they know."""
    mark = f"podium-test-{uuid.uuid4()}"
    script = "from tests.contract.hiding import serve; serve()"
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(place), mark, "contained" if contained else "guarded",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert await server.stdout.readline() == b"ready\n"
        assert len(marked(mark)) >= 6
        server.kill()
        await until(lambda: marked(mark) == [], seconds=2)
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()
