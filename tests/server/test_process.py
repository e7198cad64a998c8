"""One agent process: a cancellation leaves nothing at any moment; orphans are known for sure."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from server.agents.containment import orphans, process, spawn
from server.agents.containment.cage import Found
from server.agents.containment.orphans import Recorded, identity, reap_orphans, record
from tests.fakes.scripted import allowed, marked, scripted, until

pytestmark = pytest.mark.timeout(60)

WAITS = "setInterval(() => {}, 1000)"
HIDES = """
    require('node:child_process').spawn('/bin/sleep', ['600'], { detached: true, stdio: 'ignore' })
      .on('spawn', () => console.log('ready'));
    setInterval(() => {}, 1000);
"""


@pytest.fixture(params=["contained", "guarded"])
def found(request: pytest.FixtureRequest) -> Found | None:
    return allowed() if request.param == "contained" else None


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- cancelled at any moment --------------------------------------------------------------------

MOMENTS = [
    ("open the outputs", process, "_open_outputs"),
    ("find the program", spawn, "_must_be_there"),
    ("write the filter", spawn, "_in_memory"),
    ("start the process", asyncio, "create_subprocess_exec"),
    ("write down who it is", process, "record"),
]


class Cancels:
    """Cancels a task as a function begins or ends, and notes that it was called."""

    def __init__(self, *, times: int) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.called = False
        self._times = times
        self._loop = asyncio.get_running_loop()

    def now(self) -> None:
        assert self.task is not None
        self.called = True
        for _ in range(self._times):
            self._loop.call_soon_threadsafe(self.task.cancel)

    def around(self, function: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
        def plain(*arguments: Any) -> Any:
            if before:
                self.now()
            result = function(*arguments)
            if not before:
                self.now()
            return result

        async def waiting(*arguments: Any, **named: Any) -> Any:
            if before:
                self.now()
            result = await function(*arguments, **named)
            if not before:
                self.now()
            return result

        return waiting if asyncio.iscoroutinefunction(function) else plain


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("moment", "module", "name"), MOMENTS)
async def test_a_start_that_is_cancelled_leaves_nothing(
    tmp_path: Path,
    found: Found | None,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    module: Any,
    name: str,
    before: bool,
    times: int,
) -> None:
    async with scripted(tmp_path) as here:
        held = descriptors()
        cancels = Cancels(times=times)
        with monkeypatch.context() as patched:
            patched.setattr(module, name, cancels.around(getattr(module, name), before=before))
            cancels.task = asyncio.create_task(here.start(WAITS, found=found))
            if found is None and name == "_in_memory":
                await (await cancels.task).kill()
                assert not cancels.called, "the filter is for the contained"
                return
            with pytest.raises(asyncio.CancelledError):
                await cancels.task
        assert cancels.called
        assert marked(str(tmp_path)) == []
        assert descriptors() == held


async def test_a_start_that_is_cancelled_at_once_starts_nothing(tmp_path: Path) -> None:
    async with scripted(tmp_path) as here:
        starting = asyncio.create_task(here.start(WAITS, found=None))
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not here.places.stdout.exists()


@pytest.mark.parametrize("times", [1, 3])
async def test_a_kill_that_is_cancelled_goes_on_to_the_end(
    tmp_path: Path, found: Found | None, times: int
) -> None:
    async with scripted(tmp_path) as here:
        held = descriptors()
        running = await here.start(HIDES, found=found)
        await until(lambda: here.said() == "ready\n")
        await until(lambda: len(marked(str(tmp_path))) >= 3)
        killing = asyncio.create_task(running.kill())
        for _ in range(times):
            await asyncio.sleep(0)
            killing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await killing
        assert marked(str(tmp_path)) == []
        assert running.ended_at is not None
        assert descriptors() == held


async def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    async with scripted(tmp_path) as here:
        held = descriptors()
        launch = here.launch(WAITS, found=None)._replace(program=tmp_path / "none")
        with pytest.raises(FileNotFoundError):
            await here.start_launch(launch)
        assert descriptors() == held


async def test_it_is_written_down_before_the_prompt(tmp_path: Path, found: Found | None) -> None:
    async with scripted(tmp_path) as here:
        running = await here.start("require('node:fs').readFileSync(0)", found=found)
        written = msgspec.json.decode(here.places.process.read_bytes(), type=Recorded)
        assert written == await asyncio.to_thread(identity, running.pid)
        await running.prompt("")
        await until(lambda: running.exit_code is not None)
        assert running.exit_code == 0


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("process.exit(53)", 53),
        ("process.exit(130)", 130),
        ("process.kill(process.pid, 'SIGKILL')", -signal.SIGKILL),
        ("process.abort()", -signal.SIGABRT),
    ],
)
async def test_the_exit_code_is_the_agents_own(
    tmp_path: Path, found: Found | None, script: str, code: int
) -> None:
    async with scripted(tmp_path) as here:
        assert (await here.run(script, found=found)).exit_code == code


# --- what an earlier server left ----------------------------------------------------------------


@contextmanager
def left_over(data: Path, **changes: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child in another session, and its record, which may be another's."""
    place = data / "attempts" / "run" / "step" / "1" / "process.json"
    place.parent.mkdir(parents=True)
    command = ["/bin/sh", "-c", "setsid sleep 600 & sleep 601"]
    child = subprocess.Popen(command, start_new_session=True, env={"MARK": str(data)})
    try:
        found = record(child.pid, place)
        assert found is not None
        place.write_bytes(msgspec.json.encode(msgspec.structs.replace(found, **changes)))
        while len(marked(str(data))) < 3:
            pass
        yield child
    finally:
        for pid in marked(str(data)):
            os.kill(pid, signal.SIGKILL)
        child.wait()


def test_what_an_earlier_server_left_is_killed_once(tmp_path: Path) -> None:
    with left_over(tmp_path) as child:
        assert reap_orphans(tmp_path) == 1
        assert marked(str(tmp_path)) == []
        assert child.wait(), "it did not end by itself"
        assert reap_orphans(tmp_path) == 0


def test_what_a_bubblewrap_left_that_died_at_its_start_is_killed(tmp_path: Path) -> None:
    """Its child waits for it for ever, without a record; only the command line tells of it."""
    program = tmp_path / "bwrap"
    shutil.copy("/bin/sh", program)
    other = shutil.copy("/bin/sh", tmp_path / "other")
    ours, theirs = tmp_path / "data", tmp_path / "theirs"
    left = [
        subprocess.Popen(
            [name, "-c", "read line", "sh", f"{place}/attempts/r/s/1/settings.json"],
            stdin=subprocess.PIPE,
        )
        for name, place in ((program, ours), (program, theirs), (other, ours))
    ]
    try:
        while any(b"settings" not in cmdline(child.pid) for child in left):
            pass
        assert reap_orphans(ours) == 1
        assert left[0].wait() == -signal.SIGKILL
        assert [child.poll() for child in left[1:]] == [None, None]
    finally:
        for child in left:
            child.communicate()


@pytest.mark.parametrize("error", [PermissionError, ProcessLookupError])
def test_a_stranger_who_calls_itself_so_or_has_just_ended_keeps_no_server_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    program = shutil.copy("/bin/sh", tmp_path / "bwrap")
    command = [program, "-c", "read line", "sh", f"{tmp_path}/attempts/r/s/1/settings.json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as stranger:
        while b"settings" not in cmdline(stranger.pid):
            pass
        asked = []

        def kill(pid: int, _: int) -> None:
            asked.append(pid)
            raise error

        monkeypatch.setattr(orphans, "os", SimpleNamespace(**{**vars(os), "kill": kill}))
        assert reap_orphans(tmp_path) == 0
        assert asked == [stranger.pid]
        assert stranger.poll() is None
        stranger.communicate()


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"started": "1"},
        {"boot_id": "00000000-0000-0000-0000-000000000000"},
        {"pid": 1},
        {"pid": -1},
        {"pid": 2**40},
    ],
    ids=str,
)
def test_what_may_be_another_process_is_not_touched(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with left_over(tmp_path, **changes) as child:
        assert reap_orphans(tmp_path) == 0
        assert len(marked(str(tmp_path))) == 3
        assert child.poll() is None


@pytest.mark.parametrize("text", [b"", b"{}", b'{"pid": "x"}', b"\xff"])
def test_a_broken_record_is_no_reason_to_stop(tmp_path: Path, text: bytes) -> None:
    place = tmp_path / "attempts" / "run" / "step" / "1" / "process.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(text)
    assert reap_orphans(tmp_path) == 0
