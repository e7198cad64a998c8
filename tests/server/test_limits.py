"""What an agent's tree may take: each limit ends it under its own name, and only the limit does."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from server.agents.containment import limits as limits_module
from server.agents.containment.cage import PLACES, Found
from server.agents.containment.limits import (
    MIB,
    Limits,
    Load,
    family,
    judge,
    limited,
    measure,
    named,
)
from tests.fakes.scripted import allowed, scripted, until

pytestmark = pytest.mark.timeout(60)

WIDE = Limits()


@pytest.fixture(params=["contained", "guarded"])
def found(request: pytest.FixtureRequest) -> Found | None:
    return allowed() if request.param == "contained" else None


ALLOCATES = """
    const kept = [];
    for (let n = 0; n < 40; n++) kept.push(Buffer.alloc(8 << 20, 1));
    console.log('has it');
    setTimeout(() => process.exit(kept.length - 40), SECONDS * 1000);
"""
FORKS = """
    const { spawn } = require('node:child_process');
    for (let n = 0; n < 40; n++) spawn('/bin/sleep', ['20'], { stdio: 'ignore', detached: true });
    console.log('has it');
    setTimeout(() => process.exit(0), SECONDS * 1000);
"""
SPINS = """
    const { spawn } = require('node:child_process');
    const turn = 'while (process.cpuUsage().user < 8e5);'; // 0.8 s each: none passes it alone
    const children = [1, 2].map(() => spawn(process.execPath, ['-e', turn], { stdio: 'ignore' }));
    console.log('has it');
    setTimeout(() => process.exit(0), SECONDS * 1000);
"""
TALKS = """
    const line = 'x'.repeat(1 << 16);
    for (let n = 0; n < 80; n++) process.stdout.write(line);
    setTimeout(() => process.exit(0), SECONDS * 1000);
"""


@pytest.mark.parametrize(
    ("script", "limits", "reason"),
    [
        (ALLOCATES, Limits(memory_mib=256), "memory_limit"),
        (FORKS, Limits(processes=16), "process_limit"),
        (SPINS, Limits(cpu_seconds=1), "cpu_limit"),
        (TALKS, Limits(file_mib=4), "output_limit"),
    ],
)
async def test_a_tree_that_passes_a_limit_is_ended_by_its_name(
    tmp_path: Path, found: Found | None, script: str, limits: Limits, reason: str
) -> None:
    async with scripted(tmp_path) as here:
        ended = await here.run(script.replace("SECONDS", "30"), found=found, limits=limits)
        assert ended.exceeded is not None
        assert ended.exceeded.reason == reason
        assert not ended.exceeded.retryable
        assert ended.ended_at is not None
        assert await asyncio.to_thread(family, ended.pid) == [ended.pid]


@pytest.mark.parametrize("script", [ALLOCATES, FORKS, SPINS, TALKS])
async def test_the_same_within_its_limits_goes_on(tmp_path: Path, script: str) -> None:
    async with scripted(tmp_path) as here:
        ended = await here.run(script.replace("SECONDS", "2.5"), found=None)
        assert ended.exceeded is None
        assert ended.exit_code == 0, here.errors()


async def test_whose_watch_breaks_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Found | None
) -> None:
    def broken(*_: object, **__: object) -> Load:
        raise OSError("no look")

    monkeypatch.setattr(limits_module, "measure", broken)
    ended = False
    with pytest.raises(OSError, match="no look"):
        async with scripted(tmp_path) as here:
            process = await here.start("setTimeout(() => {}, 50_000)", found=found)
            await until(lambda: process.exit_code is not None)
            ended = True
    assert ended


def test_a_look_at_a_tree_outlives_the_processes_that_end_under_it() -> None:
    """A shell of short children: one look in forty meets one that is just going."""
    script = "while :; do (true & true & wait); done"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as shell:
        try:
            looks = [family(shell.pid) for _ in range(2_000)]
        finally:
            os.killpg(shell.pid, signal.SIGKILL)
    assert {look[0] for look in looks} == {shell.pid}
    assert max(map(len, looks)) > 1


@pytest.mark.parametrize("found", ["contained"], indirect=True)
@pytest.mark.parametrize("counted", [True, False])
async def test_files_in_memory_count_also_when_they_are_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Found | None, counted: bool
) -> None:
    if not counted:  # the negative control
        monkeypatch.setattr(limits_module, "INODE_BYTES", 0)
    script = """
        const fs = require('node:fs');
        for (let n = 0; n < 120000; n++) fs.mkdirSync(`${process.env.HOME}/${n}`);
        setTimeout(() => {}, 3000);
    """
    async with scripted(tmp_path) as here:
        ended = await here.run(script, found=found, limits=Limits(memory_mib=150))
    assert (ended.exceeded is not None) is counted


# --- the kernel's limits of each process --------------------------------------------------------


async def test_one_process_that_spins_is_ended_by_the_kernel(
    tmp_path: Path, found: Found | None
) -> None:
    limits = Limits(cpu_seconds=1)
    async with scripted(tmp_path) as here:
        launch = here.launch("for (;;);", found=found, limits=limits)
        # The watch has a wider limit: the kernel alone is to end it.
        process = await here.start_launch(launch)
        await until(lambda: process.exit_code is not None)
        assert process.exit_code == -signal.SIGXCPU
        failure = named(process.exit_code, "", limits)
    assert failure is not None
    assert failure.reason == "cpu_limit"


async def test_a_file_that_grows_past_its_bound_is_refused(
    tmp_path: Path, found: Found | None
) -> None:
    script = """
        const fs = require('node:fs');
        try { for (let n = 0; n < 96; n++) fs.appendFileSync(`${process.env.HOME}/file`,
          Buffer.alloc(1 << 20)); } catch (error) { console.log(error.code); }
        console.log(fs.statSync(`${process.env.HOME}/file`).size);
    """
    async with scripted(tmp_path) as here:
        await here.run(script, found=found, limits=Limits(file_mib=4))
        assert here.said() == f"EFBIG\n{4 * MIB}\n"
        if found is None:
            (here.places.home / "file").unlink()
            await here.run(script, found=found, limits=Limits(file_mib=128))
            assert here.said() == f"{96 * MIB}\n", "the negative control"


async def test_memory_that_one_process_reserves_is_bounded(tmp_path: Path) -> None:
    """The kernel's bound is for what comes between two looks; V8 says so with its last words."""
    script = "const kept = []; for (;;) kept.push(new Array(1e5).fill(1.5));"
    limits = Limits(memory_mib=64)
    async with scripted(tmp_path) as here:
        launch = here.launch(script, found=None, limits=limits)
        place = launch.command.index("limits") + 4
        assert launch.command[place] == str((64 + 4096) * 1024)
        launch.command[place] = str(1024 * 1024)  # sooner, so that the test takes less
        process = await here.start_launch(launch)
        await until(lambda: process.exit_code is not None)
        failure = named(process.exit_code, await process.stderr_tail(), limits)
    assert failure is not None
    assert failure.reason == "memory_limit"


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_every_shell_sets_the_limits(shell: str) -> None:
    command = limited(["/bin/cat", "/proc/self/limits"], Limits(), tasks=True)
    said = subprocess.run(
        ["sh", *command[1:]], executable=shell, capture_output=True, text=True, check=False
    )
    rows = {line[:26].strip(): line[26:].split()[:2] for line in said.stdout.splitlines()}
    assert said.stderr == ""
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max file size"] == [str(64 * MIB)] * 2
    assert rows["Max cpu time"] == ["1800", "1805"]
    assert rows["Max processes"] == ["1024", "1024"]
    assert rows["Max data size"] == [str((2048 + 4096) * MIB)] * 2


async def test_a_tree_has_no_more_tasks_than_the_kernel_is_told() -> None:
    """Counted within the containment, whatever else the same user runs. The kernel counts none
    of root's, so root is tried as nobody."""
    found = allowed()
    command = limited(
        ["/bin/sh", "-c", "for n in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait; echo survived"],
        Limits(processes=0), tasks=True,
    )  # fmt: skip
    place = command.index("limits") + 6
    apart = [
        str(found.bwrap),
        "--unshare-user",
        "--unshare-pid",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
    ]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    said = {}
    for number in ("4", "64"):
        command[place] = number
        whole = [*(nobody if os.geteuid() == 0 else []), *apart, "--", *command]
        done = await asyncio.to_thread(
            subprocess.run, whole, capture_output=True, text=True, check=False
        )
        said[number] = done.stdout + done.stderr
    assert "annot fork" in said["4"]
    assert said["64"] == "survived\n"


# --- measuring ----------------------------------------------------------------------------------


async def test_a_trees_load_is_that_of_its_processes(tmp_path: Path, found: Found | None) -> None:
    script = """
        require('node:fs').writeFileSync(`${process.env.HOME}/kept`, Buffer.alloc(32 << 20));
        const kept = Buffer.alloc(64 << 20, 1);
        require('node:child_process').spawn('/bin/sleep', ['60'], { stdio: 'ignore' })
          .on('spawn', () => console.log('ready'));
        setInterval(() => kept.length, 1000);
    """
    async with scripted(tmp_path) as here:
        process = await here.start(script, found=found)
        await until(lambda: here.said() == "ready\n")
        small = Limits(memory_mib=1)
        mounts = [PLACES.home]
        for limits in (WIDE, small):  # what is shared counted roughly, and exactly
            load = await asyncio.to_thread(
                measure, process.pid, limits, outputs=[here.places.stdout], mounts=mounts
            )
            expected = 64 + 20 + (32 if found else 0)
            assert expected < load.memory / MIB < expected + 150
            assert load.processes in (3, 4)
            assert 0 < load.cpu_seconds < 20
            assert load.output == len("ready\n")


def test_a_process_that_is_gone_has_no_load() -> None:
    child = subprocess.Popen(["/bin/true"])
    child.wait()
    assert measure(child.pid, WIDE)[0] == 0


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (Load(2048 * MIB, 64, 1800, 64 * MIB - 1), None),
        (Load(2048 * MIB + 1, 1, 0, 0), "memory_limit"),
        (Load(0, 65, 0, 0), "process_limit"),
        (Load(0, 1, 1800.1, 0), "cpu_limit"),
        (Load(0, 1, 0, 64 * MIB), "output_limit"),
    ],
)
def test_what_passes_a_limit(load: Load, reason: str | None) -> None:
    failure = judge(load, WIDE)
    assert (failure.reason if failure else None) == reason


@pytest.mark.parametrize(
    ("code", "stderr", "reason"),
    [
        (-signal.SIGXCPU, "", "cpu_limit"),
        (-signal.SIGXFSZ, "", "output_limit"),
        (-signal.SIGABRT, "FATAL ERROR: … JavaScript heap out of memory", "memory_limit"),
        (-signal.SIGTRAP, "# Fatal process out of memory: CodeRange", "memory_limit"),
        (-signal.SIGABRT, "an assertion failed", None),
        (-signal.SIGKILL, "", None),
        (1, "heap out of memory", None),
        (None, "", None),
    ],
)
def test_how_the_kernels_limits_are_told_apart(
    code: int | None, stderr: str, reason: str | None
) -> None:
    failure = named(code, stderr, WIDE)
    assert (failure.reason if failure else None) == reason
