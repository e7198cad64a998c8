"""A start does nothing in the loop that another process can hold up."""

import asyncio
import socket
from pathlib import Path

import pytest

from server import logs
from server.commands.shared import FAILED
from server.serve import serve
from server.settings import Settings
from server.users import tokens
from tests.server.harness import WAIT_SECONDS


async def test_the_loop_goes_on_while_another_start_makes_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sleep in the loop fails every test."""
    asked: list[Path] = []

    def made_by_another(path: Path) -> str:
        asked.append(path)
        return "" if len(asked) < 3 else "of-another-start-0123456789"

    monkeypatch.setattr(tokens, "_made", made_by_another)
    monkeypatch.setattr(logs, "configure", lambda **options: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(data=str(tmp_path), port=taken.getsockname()[1])
        starting = serve(settings, projects=[], with_parent=False)
        assert await asyncio.wait_for(starting, WAIT_SECONDS) == FAILED, "its port is taken"
    assert asked == [tmp_path / "token"] * 3
