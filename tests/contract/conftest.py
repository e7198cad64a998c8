"""`make bump-qwen` runs the contract with another qwen; nothing but these tests can be told so.

The server has no such switch: no setting and no environment variable makes it start a qwen that was
not tested.
"""

import json
import os
from pathlib import Path

import msgspec
import pytest

from server.agents import installation, profile


@pytest.fixture(autouse=True)
def candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the qwen of PODIUM_TEST_QWEN, and hold it to the profile of the pinned one."""
    folder = os.environ.get("PODIUM_TEST_QWEN")
    if not folder:
        return
    package = Path(folder) / "node_modules" / "@qwen-code" / "qwen-code" / "package.json"
    version = json.loads(package.read_text("utf-8"))["version"]
    held_to = msgspec.structs.replace(profile.PINNED, version=version)
    monkeypatch.setattr(installation, "install_directory", lambda: Path(folder))
    monkeypatch.setattr(profile, "PROFILES", {version: held_to})
