"""Hosts that refuse the containment, or a part of it: a bubblewrap that refuses as they do, in
the words of the real one, around the real one."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from protocol.resources import Level
from server.agents.containment import ladder
from server.agents.containment.cage import Found
from server.agents.containment.refusals import Host
from server.commands.doctor.diagnosis import Diagnosis
from server.commands.doctor.examine import contained
from server.settings import Settings
from tests.fakes.scripted import allowed, marked, node

pytestmark = pytest.mark.timeout(60)

ALL = tuple(Level)
NAMESPACE = (
    "bwrap: No permissions to create new namespace, likely because the kernel does not allow "
    "non-privileged user namespaces."
)
FULL = (
    "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces "
    "exceeded (ENOSPC)"
)
UID_MAP = "bwrap: setting up uid map: Permission denied"
LOOPBACK = "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted"
PROC = "bwrap: Can't mount proc on /newroot/proc: Operation not permitted"


@pytest.fixture(autouse=True)
def real() -> Found:
    return allowed()


def fake(place: Path, script: str, real: Found) -> Path:
    """A bubblewrap that is the script, which may end with the real one."""
    program = place / "bwrap"
    program.write_text(f'#!/bin/sh\nREAL="{real.bwrap}"\n{script}\n')
    program.chmod(0o755)
    return program


def refusing(place: Path, real: Found, **flags: str) -> Path:
    """Fails with a text at the sight of a flag; the flags are tried in the order given."""
    lines = []
    for flag, text in flags.items():
        word = f"--{flag.replace('_', '-')}"
        lines.append(f'case " $* " in *" {word} "*) echo "{text}" >&2; exit 1;; esac')
    return fake(place, "\n".join([*lines, 'exec "$REAL" "$@"']), real)


async def examined(place: Path, bwrap: Path) -> Found:
    return await ladder.examine(node(), place, bwrap=bwrap)


@pytest.fixture
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Host:
    found: Host = getattr(request, "param", Host())
    monkeypatch.setattr(ladder, "this_host", lambda: found)
    return found


@pytest.mark.parametrize(
    ("host", "flags", "levels", "reason", "hint"),
    [
        pytest.param(
            Host(apparmor=True), {"unshare_net": LOOPBACK, "unshare_user": UID_MAP},
            (), "AppArmor", "/etc/apparmor.d/bwrap", id="Ubuntu 24.04",
        ),
        pytest.param(
            Host(clone=False), {"unshare_user": NAMESPACE},
            (), "for root", "kernel.unprivileged_userns_clone=1", id="Debian 10",
        ),
        pytest.param(
            Host(namespaces=0), {"unshare_user": FULL},
            (), "no further", "user.max_user_namespaces", id="hardened",
        ),
        pytest.param(
            Host(container=True), {"unshare_user": NAMESPACE},
            (), "container forbids", "seccomp=unconfined", id="Docker",
        ),
        pytest.param(
            Host(container=True), {"unshare_net": LOOPBACK},
            (Level.FILESYSTEM, Level.PROCESSES), "network namespace", "--security-opt",
            id="gVisor",
        ),
        pytest.param(
            Host(container=True), {"unshare_pid": NAMESPACE},
            (Level.FILESYSTEM, Level.NETWORK), "container forbids", "--security-opt",
            id="no namespace of processes",
        ),
        pytest.param(
            Host(), {"unshare_pid": NAMESPACE, "unshare_net": LOOPBACK},
            (Level.FILESYSTEM,), "network namespace", "bwrap --unshare-all", id="files alone",
        ),
        pytest.param(
            Host(), {"ro_bind": "bwrap: Can't bind mount /usr: Permission denied"},
            (), "cannot set up", "bwrap --unshare-all", id="something else",
        ),
    ],
    indirect=["host"],
)  # fmt: skip
async def test_what_a_host_refuses_is_missing_and_the_rest_stays(
    tmp_path: Path,
    real: Found,
    host: Host,
    flags: dict[str, str],
    levels: tuple[Level, ...],
    reason: str,
    hint: str,
) -> None:
    found = await examined(tmp_path, refusing(tmp_path, real, **flags))
    assert found.levels == levels
    assert not found.complete
    assert (found.bwrap is None) == (levels == ())
    assert reason in (found.reason or "")
    assert hint in (found.hint or "")
    assert "it said: bwrap: " in (found.reason or ""), "its own words are there to search for"


async def test_where_proc_cannot_be_mounted_there_is_none(tmp_path: Path, real: Found) -> None:
    """As in a container that masks /proc: the agent does without, and sees no process."""
    found = await examined(tmp_path, refusing(tmp_path, real, proc=PROC))
    assert found.levels == ALL
    assert not found.proc


async def test_an_option_that_the_host_refuses_is_left_out(tmp_path: Path, real: Found) -> None:
    text = "bwrap: cannot open /proc/sys/user/max_user_namespaces: Read-only file system"
    found = await examined(tmp_path, refusing(tmp_path, real, disable_userns=text))
    assert found.levels == ALL
    assert found.options == real.options - {"--disable-userns"}


async def test_an_old_bubblewrap_is_used_without_its_new_options(
    tmp_path: Path, real: Found
) -> None:
    script = """
        case "$1" in
          --version) echo bubblewrap 0.6.1; exit;;
          --help) exec "$REAL" --help | grep -v -e --disable-userns -e --size; exit;;
        esac
        case " $* " in
          *" --disable-userns "* | *" --size "*) echo "bwrap: Unknown option" >&2; exit 1;;
        esac
        exec "$REAL" "$@"
    """
    found = await examined(tmp_path, fake(tmp_path, script, real))
    assert found.version == "0.6.1"
    assert (found.levels, found.options) == (ALL, frozenset())


async def test_a_bubblewrap_that_only_says_so_is_not_believed(tmp_path: Path, real: Found) -> None:
    script = 'case "$1" in --version | --help) exec "$REAL" "$1";; esac; exit 0'
    found = await examined(tmp_path, fake(tmp_path, script, real))
    assert found.levels == ()


@pytest.mark.parametrize(
    ("flag", "levels"),
    [
        ("--unshare-net", (Level.FILESYSTEM, Level.PROCESSES)),
        ("--remount-ro /", ALL),
    ],
)
async def test_a_flag_without_effect_is_seen_from_inside(
    tmp_path: Path, real: Found, flag: str, levels: tuple[Level, ...]
) -> None:
    """The second is no level of its own: the copy is mounted read-only besides."""
    script = f"""
        for word; do shift; [ "$word" = "{flag}" ] || set -- "$@" "$word"; done
        exec "$REAL" "$@"
    """
    found = await examined(tmp_path, fake(tmp_path, script, real))
    assert found.levels == levels
    if levels != ALL:
        assert found.reason is not None
        assert "what must fail succeeded" in found.reason
        assert "saw the interface" in found.reason or "connected to port" in found.reason


async def test_a_bubblewrap_that_hangs_is_given_up(
    tmp_path: Path, real: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "TOTAL_SECONDS", 0.5)
    mark = f"sleep-{os.getpid()}-{tmp_path.name}"
    script = f'case "$1" in --*n | --help) exec "$REAL" "$1";; esac; MARK={mark} exec sleep 600'
    found = await examined(tmp_path, fake(tmp_path, script, real))
    assert found.levels == ()
    assert "not done within" in (found.reason or "")
    assert marked(mark) == []


async def test_a_bubblewrap_that_cannot_be_run_is_said(tmp_path: Path, real: Found) -> None:
    program = fake(tmp_path, "", real)
    program.chmod(stat.S_IRUSR)
    program.write_bytes(b"\x7fELF")
    found = await examined(tmp_path, program)
    assert found.levels == ()
    assert "cannot be tried" in (found.reason or "")


async def test_no_bubblewrap_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = node()
    monkeypatch.setenv("PATH", str(tmp_path))
    found = await ladder.examine(program, tmp_path)
    assert found.levels == ()
    assert "apt install bubblewrap" in (found.hint or "")


async def test_another_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    found = await ladder.examine(tmp_path, tmp_path)
    assert (found.levels, found.reason) == ((), "bubblewrap needs Linux")


# --- what doctor says ---------------------------------------------------------------------------


def told(found: Found, **settings: Any) -> list[Diagnosis]:
    return contained(found, Settings(data="/nowhere", **settings))


def test_doctor_names_each_level_and_what_it_means(real: Found) -> None:
    lines = told(real)
    assert [line.name for line in lines] == [f"contained: {level}" for level in Level]
    assert all(line.well and line.says for line in lines)
    assert len({line.says for line in lines}) == len(Level)


def test_doctor_ticks_nothing_that_is_switched_off(real: Found) -> None:
    lines = told(real, containment="off")
    assert not any(line.well or line.required for line in lines)
    assert all('`containment = "off"`' in line.says for line in lines)
    assert all(line.hint is None for line in lines), "there is nothing to install"


def test_doctor_says_why_a_level_is_missing_and_what_brings_it() -> None:
    found = Found(levels=(Level.FILESYSTEM,), bwrap=Path("/bwrap"), reason="why", hint="how")
    lines = told(found)
    assert [line.well for line in lines] == [True, False, False]
    assert not any(line.required for line in lines)
    assert all("why" in line.says for line in lines[1:])
    assert [line.hint for line in lines[1:]] == ["how", None], "what mends both is said once"


@pytest.mark.parametrize(
    ("settings", "required"),
    [
        ({}, False),
        ({"containment": "required"}, True),
        ({"host": "0.0.0.0", "public_url": "http://podium.example"}, True),
    ],
)
def test_a_missing_level_counts_where_containment_is_required(
    settings: dict[str, str], required: bool
) -> None:
    lines = told(Found(reason="why", hint="how"), **settings)
    assert {line.required for line in lines} == {required}
    assert not any(line.well for line in lines)
