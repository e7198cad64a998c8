"""An install of the agent that was cut short counts for nothing."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from server.commands import setting_up
from server.ports import AgentUnavailable

QUIET = Console(quiet=True)


class Npm:
    """Unpacks one thing after the other, and writes its own lock last, as the real one does."""

    def __init__(self) -> None:
        self.installs = 0
        self.dies = False

    async def __call__(self, npm: str, node: Path, target: Path) -> None:
        self.installs += 1
        await asyncio.to_thread(self._unpack, target / "node_modules")

    def _unpack(self, modules: Path) -> None:
        (modules / "@qwen-code").mkdir(parents=True, exist_ok=True)
        if self.dies:
            raise ConnectionError("cut short")
        (modules / ".package-lock.json").touch()


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Npm:
    made = Npm()
    monkeypatch.setattr(setting_up, "_npm_install", made)
    monkeypatch.setattr(setting_up, "install_directory", lambda: tmp_path / "qwen")
    return made


async def test_what_was_cut_short_is_installed_again(npm: Npm) -> None:
    npm.dies = True
    with pytest.raises(ConnectionError):
        await setting_up.install_qwen(QUIET)
    npm.dies = False
    await setting_up.install_qwen(QUIET)
    assert npm.installs == 2
    await setting_up.install_qwen(QUIET)
    assert npm.installs == 2, "what is whole is left alone"


async def test_another_version_is_installed_anew(npm: Npm, tmp_path: Path) -> None:
    await setting_up.install_qwen(QUIET)
    (tmp_path / "qwen" / "package-lock.json").write_text("{}")
    await setting_up.install_qwen(QUIET)
    assert npm.installs == 2


async def test_an_install_that_hangs_is_ended_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def noted(*words: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*words, **options))
        return started[-1]

    hanging = tmp_path / "npm"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    monkeypatch.setattr(setting_up, "INSTALL_SECONDS", 0.1)
    with pytest.raises(AgentUnavailable, match="did not end within") as caught:
        await setting_up._npm_install(str(hanging), Path("/usr/bin/node"), tmp_path)
    assert caught.value.reason == "install_failed"
    assert [it.returncode for it in started] == [-signal.SIGKILL]
