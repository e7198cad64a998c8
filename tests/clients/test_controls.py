"""Each guard of the clients is needed: without it the scenario that is about it fails.

A control is made of the client's own source with the guard taken out, so it says exactly which line
the scenario holds. The source is asserted to have had the guard.
"""

import asyncio
import importlib
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from server import client
from tests.clients.runners import CLIENT_JS, RUNNER_JS, ProcessRunner, PythonRunner
from tests.clients.scenarios import BY_NAME
from tests.clients.stage import Failed, Runner, Unusable, plays

PATIENCE = 2.0
"""A client without a guard may wait for ever."""
AT_ONCE = 8
SOURCES = Path(client.__file__).parent


class Edit(NamedTuple):
    guard: str
    without: str
    file: str = ""
    """Of Python's client."""


class Control(NamedTuple):
    scenario: str
    js: tuple[Edit, ...] = ()
    python: tuple[Edit, ...] = ()


CONTROLS = [
    Control(
        "nothing is asked before the hello",
        (Edit('while (this.state === "live" &&', "while (this.#link?.opened &&"),),
        (
            Edit(
                "self.hello = await greet(socket, ticket)",
                "early = asyncio.create_task(self._send_all(socket))\n"
                "                self.hello = await greet(socket, ticket)",
                "wire.py",
            ),
        ),
    ),
    Control(
        "a hello that comes late is waited for, and asked is once",
        (
            # As the page once was: it asked at the open socket, and again at the hello.
            Edit('while (this.state === "live" &&', "while (this.#link?.opened &&"),
            Edit(
                "this.#hello = frame;",
                "this.#hello = frame;"
                "for (const each of this.#followed.values()) each.phase = WANTED;",
            ),
        ),
    ),
    *(
        Control(
            scenario,
            (Edit("admitted: !ticket", "admitted: true"),),
            (Edit("admitted = ticket is None", "admitted = True", "connection.py"),),
        )
        for scenario in (
            "nothing is asked before the ticket is answered",
            "a socket that is somebody else's is never live",
            "a ticket that is never answered is the end of a connection",
        )
    ),
    Control(
        "doubles are left out",
        (Edit("if (frame.seq <= this.seq) return null;", ""),),
        (Edit("if seq <= self.seq:", "if False:", "cursor.py"),),
    ),
    Control(
        "a gap is asked for again",
        (Edit("if (!this.outline && frame.seq !== this.seq + 1) return this.#missed();", ""),),
        (
            Edit(
                "if self._detail is Detail.FULL and seq != self.seq + 1:", "if False:", "cursor.py"
            ),
        ),
    ),
    Control(
        "a gap that stays is not asked for in a hurry, but at the next heartbeats",
        (Edit("if (this.#gap !== this.seq) this.phase", "this.phase"),),
        (Edit("if self._gap != self.seq:", "if True:", "cursor.py"),),
    ),
    Control(
        "a loss at a quiet tail is found by the heads, once it is sure",
        (Edit("following.check(heads[runId])", ""),),
        (Edit("reader.subject.check(frame.heads.get(run_id))", "pass", "wire.py"),),
    ),
    Control(
        "frames on their way are no loss",
        (Edit("if (still && (", "if (("),),
        (Edit("if still and (", "if (", "cursor.py"),),
    ),
    Control(
        "a caught_up that names what has not come shows a loss at once",
        (Edit("frame.seq > this.seq ? this.#missed() :", ""),),
        (Edit("case FlowRunCaughtUp(seq=seq) if seq > self.seq:", "case None:", "cursor.py"),),
    ),
    Control(
        "an answer that never says where frames go on is asked for again",
        (Edit("this.phase === ASKED || ", ""), Edit("(head ?? Infinity)", "(head ?? 0)")),
        (
            Edit(
                "(self.phase is Phase.ASKED or head is None or head > self.seq)",
                "(head is not None and head > self.seq)",
                "cursor.py",
            ),
        ),
    ),
    Control(
        "nothing is taken before the server has said where frames go on",
        (Edit("if (this.phase !== LISTENING) return null;", ""),),
        (Edit("case _ if self.phase is not Phase.LISTENING:", "case None:", "cursor.py"),),
    ),
    Control(
        "what a server has lost is dropped",
        (Edit('return from < had ? ["onTruncate", from] : null;', "return null;"),),
        (Edit("return frame if frame.after < had else None", "return None", "cursor.py"),),
    ),
    Control(
        "a server that would skip frames is left",
        (Edit("if (from > had && this.tail === undefined) throw", "if (false) throw"),),
        (Edit("if frame.after > had and self._tail is None:", "if False:", "cursor.py"),),
    ),
    Control(
        "of an ended run nothing more is wanted",
        (Edit('if (frame.type === "flow_run_finished") this.unfollow(frame.run_id);', ""),),
    ),
    Control(
        "what is unknown is counted, not given",
        (Edit("return STORED.has(frame.type) ?", "return true ?"),),
        (Edit("case UnknownFrame(seq=int(seq)):", "case None:", "cursor.py"),),
    ),
    Control(
        "a run that cannot be read now is asked for later",
        (Edit("ask.subject && PASSING.has(frame.code)", "false"),),
        (Edit("ask.reader is not None and frame.code in PASSING", "False", "outgoing.py"),),
    ),
    Control(
        "the run list comes, and comes again",
        (
            Edit(
                "for (const subject of this.#subjects()) subject.phase",
                "for (const subject of this.#followed.values()) subject.phase",
            ),
        ),
        (
            Edit(
                "index: list[AnyReader] = [self._index] if self._index else []",
                "index: list[AnyReader] = []",
                "wire.py",
            ),
        ),
    ),
    Control(
        "a launch whose ack is lost is the same launch again",
        (Edit("owed.filter(({ once }) => !once)", "[]"),),
        (Edit("deque(ask for ask in owed if ask.outlasts)", "deque()", "outgoing.py"),),
    ),
    Control(
        "a launch whose ack is lost is the same launch again",
        (
            Edit(
                "JSON.stringify({ ...ask.message,",
                "JSON.stringify({ ...ask.message, key: newKey(),",
            ),
        ),
    ),
    Control(
        "nobody waits for ever: no answer",
        (Edit("command.fail(this.#late(message)), seconds * 1000)", "0, seconds * 1000)"),),
        (Edit("self._pace.launch_seconds if slow", "None if slow", "wire.py"),),
    ),
    Control(
        "what waits is bounded",
        (Edit("if (this.#pending.size >= MAX_PENDING)", "if (false)"),),
        (Edit("if len(self._pending) >= MAX_PENDING:", "if False:", "outgoing.py"),),
    ),
    Control(
        "too fast is asked again, when the server says",
        (Edit("later = LATER.has(frame.code) &&", "later = false &&"),),
        (Edit("later = frame.code in LATER and", "later = False and", "outgoing.py"),),
    ),
    Control(
        "what was put off is not asked twice by a new connection",
        (
            Edit(
                "if (this.#link === link && ask.subject.phase === ASKED)",
                "if (ask.subject.phase === ASKED)",
            ),
        ),
        (
            Edit(
                "        self._cancel_timers()\n        for ask in self._pending.diff",
                "        for ask in self._pending.diff",
                "outgoing.py",
            ),
        ),
    ),
    Control(
        "no more is said than the server takes",
        (Edit("if (wait > 0) return", "if (false) return"),),
        (Edit("return max(0.0, (1 - self._tokens) / rate)", "return 0.0", "outgoing.py"),),
    ),
    Control(
        "what the server would not take is not sent",
        (Edit("new TextEncoder().encode(text).length > limit", "false"),),
        (Edit("if len(text) > limit:", "if False:", "outgoing.py"),),
    ),
    Control(
        "close code 4403 says stay away",
        (Edit("if (STAY_AWAY.has(code))", "if (false)"),),
        (Edit("elif ended.code in STAY_AWAY:", "elif False:", "wire.py"),),
    ),
    Control(
        "a server that does not let in is asked again, more and more slowly",
        (Edit('this.#say({ state: "live" });', 'this.#tries = 0; this.#say({ state: "live" });'),),
        (
            Edit(
                "self._say(Condition(State.LIVE))",
                "self._tries = 0; self._say(Condition(State.LIVE))",
                "wire.py",
            ),
        ),
    ),
    Control(
        "the waits of many are spread from nothing on",
        (Edit("this.#options.random() *", ""),),
        (Edit("self._chance() *", "", "wire.py"),),
    ),
    Control(
        "a server that drains is given the time it asks for",
        (Edit("this.#atLeast = bounded(frame.retry_after_ms);", ";"),),
        (Edit("self._at_least = bounded(frame.retry_after_ms)", "pass", "wire.py"),),
    ),
    Control(
        "silence is the end of a connection",
        (Edit("if (left <= 0) this.#drop", "if (false) this.#drop"),),
        (
            Edit(
                "async with asyncio.timeout(seconds):",
                "async with asyncio.timeout(None):",
                "wire.py",
            ),
        ),
    ),
    Control(
        "a hello that never comes is the end of a connection",
        (
            Edit(
                'this.#set("connect", () => this.#drop("no hello in time"),',
                'this.#set("connect", () => 0,',
            ),
        ),
        (Edit("asyncio.timeout(self._pace.connect_seconds)", "asyncio.timeout(None)", "wire.py"),),
    ),
    Control(
        "text that is no frame is the end of a connection",
        (Edit("this.#drop(`not understood: ${error.message}`);", ""),),
        (
            Edit(
                "self._hear(await _within(silence, socket))",
                "heard = await _within(silence, socket)\n"
                "                with suppress(Exception):\n"
                "                    self._hear(heard)",
                "wire.py",
            ),
        ),
    ),
    Control(
        "what does not speak podium.v1 is nobody",
        python=(Edit("if socket.subprotocol != SUBPROTOCOL:", "if False:", "connection.py"),),
    ),
    Control(
        "a refused ticket is followed by another one",
        (Edit("if (code === SIGNED_OUT && this.#refusals++ === 0) return this.#open();", ""),),
        (Edit("and not self._refusals:", "and False:", "wire.py"),),
    ),
    Control(
        "two refused tickets are enough",
        (Edit("this.#refusals++ === 0", "true"),),
        (Edit("and not self._refusals:", "and True:", "wire.py"),),
    ),
    Control(
        "who has no ticket and is not signed in is told at once",
        (Edit('link.greeting = "hello";', 'if (!ticket) return; link.greeting = "hello";'),),
        (Edit("with suppress(ConnectionClosed):", "if ticket is not None:", "connection.py"),),
    ),
    Control(
        "who is not let in for want of credentials is signed out",
        (
            Edit(
                "return { 401: SIGNED_OUT, 403: FORBIDDEN }[asked?.status] ?? code;", "return code;"
            ),
        ),
        (Edit("code = _OF_STATUS.get(error.response.status_code, code)", "pass", "connection.py"),),
    ),
]


def applied(text: str, edits: tuple[Edit, ...], *, file: str = "") -> str:
    for edit in edits:
        if edit.file == file:
            assert text.count(edit.guard) == 1, f"not there once: {edit.guard}"
            text = text.replace(edit.guard, edit.without)
    return text


def variant(edits: tuple[Edit, ...], folder: Path) -> ModuleType:
    """Python's client without a guard, as a package of its own."""
    package = folder / f"variant_{len(list(folder.iterdir()))}"
    shutil.copytree(SOURCES, package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in package.glob("*.py"):
        text = applied(path.read_text(), edits, file=path.name)
        path.write_text(text.replace("server.client", package.name))
    return importlib.import_module(package.name)


@pytest.fixture
def packages(tmp_path: Path) -> Iterator[Path]:
    """A folder of packages that are forgotten after the test."""
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    for name in [each for each in sys.modules if each.startswith("variant_")]:
        del sys.modules[name]


class Play(NamedTuple):
    scenario: str
    runner: Callable[[], Runner]


async def survives(play: Play) -> bool:
    try:
        await plays(play.runner(), BY_NAME[play.scenario], patience=PATIENCE)
    except Failed:
        return False
    return True


async def survivors(controls: list[Play]) -> list[str]:
    """The controls that get through their scenario. They are played beside each other, as many of
    them fail by waiting; on a busy machine one may be too slow to do wrong, so whoever gets through
    is played again alone."""
    room = asyncio.Semaphore(AT_ONCE)

    async def beside(play: Play) -> bool:
        async with room:
            return await survives(play)

    through = await asyncio.gather(*(beside(play) for play in controls))
    suspects = [play for play, passed in zip(controls, through, strict=True) if passed]
    return [play.scenario for play in suspects if await survives(play) and await survives(play)]


async def test_the_python_client_needs_each_guard(packages: Path) -> None:
    def play(control: Control) -> Play:
        package = variant(control.python, packages)
        return Play(control.scenario, lambda: PythonRunner(package))

    assert await survivors([play(each) for each in CONTROLS if each.python]) == []


async def test_client_js_needs_each_guard(tmp_path: Path, node: str) -> None:
    def play(number: int, control: Control) -> Play:
        without = tmp_path / f"{number}.mjs"
        without.write_text(applied(CLIENT_JS.read_text("utf-8"), control.js))
        command = [node, str(RUNNER_JS), str(without)]
        return Play(control.scenario, lambda: ProcessRunner(command))

    controls = [play(number, each) for number, each in enumerate(CONTROLS) if each.js]
    assert await survivors(controls) == []


# --- what is no application ---------------------------------------------------------------------

ECHO = "import sys\nfor line in sys.stdin: print(line, flush=True)"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["true"], "the application ended with status 0 before it did start"),
        (["no-such-program"], "no-such-program cannot be started: No such file"),
        ([sys.executable, "-c", ECHO], "which is no event"),
        ([sys.executable, "-c", "print('hello')"], "which is no event|ended with status 0"),
    ],
)
async def test_what_is_no_application_is_told_at_once(command: list[str], says: str) -> None:
    with pytest.raises(Unusable, match=says):
        await plays(ProcessRunner(command), BY_NAME["doubles are left out"], patience=math.inf)


async def test_an_application_that_ends_later_has_failed(node: str, tmp_path: Path) -> None:
    """Of one scenario that is; the others may go on."""
    ending = tmp_path / "ending.mjs"
    ending.write_text(
        RUNNER_JS.read_text("utf-8").replace("    follow,", "    follow: () => process.exit(3),")
    )
    runner = ProcessRunner([node, str(ending), str(CLIENT_JS)])
    with pytest.raises(Failed, match="ended with status 3 before it did follow") as failure:
        await plays(runner, BY_NAME["doubles are left out"], patience=math.inf)
    assert not isinstance(failure.value, Unusable)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 1, "COMMAND is an application around your client"),
        (("--help",), 0, "COMMAND is an application around your client"),
        (("true",), 1, "the application ended with status 0 before it did start\n"),
    ],
)
async def test_the_command_says_what_it_takes(words: tuple[str, ...], code: int, says: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.clients", *words,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await process.communicate()
    assert (process.returncode, told.decode().count(says)) == (code, 1)
    assert "Traceback" not in told.decode()
