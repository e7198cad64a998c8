"""What podium knows of a version of qwen, and that it starts no other."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.agents import installation, profile
from server.agents.profile import PINNED, PROFILES, Profile, decode, encode, profile_of
from server.ports import AgentUnavailable

FILES = Path(profile.__file__).parent / "qwen" / "profiles"


def changed(**changes: Any) -> bytes:
    return encode(msgspec.structs.replace(PINNED, **changes))


def installed(folder: Path, version: str) -> None:
    package = folder / "node_modules" / "@qwen-code" / "qwen-code" / "package.json"
    package.parent.mkdir(parents=True)
    package.write_text(json.dumps({"version": version}))


@pytest.mark.parametrize("found", PROFILES.values(), ids=PROFILES)
def test_every_profile_allows_three_readers_and_the_result_and_nothing_else(
    found: Profile,
) -> None:
    """Whoever wants to allow another tool has to change this test."""
    assert found.tools == {"read_file", "glob", "grep_search", "structured_output"}
    assert found.mode == "plan"
    assert found.offered_by_default <= found.tools | set(found.excluded)
    # What writes is not offered in plan mode, and is taken away by name all the same.
    assert {"write_file", "edit", "notebook_edit", "run_shell_command"} <= set(found.excluded)
    assert found.exit_codes["delivered"] == 0
    assert 0 not in [code for case, code in found.exit_codes.items() if case != "delivered"]


def test_the_pinned_version_has_a_profile() -> None:
    pins = json.loads((FILES.parent / "package.json").read_text())["dependencies"]
    assert [PINNED.version] == list(pins.values())
    assert profile_of(PINNED.version) is PINNED
    assert (FILES / f"{PINNED.version}.json").read_bytes() == encode(PINNED)


@pytest.mark.parametrize(
    ("version", "reason"),
    [("0.24.5", "qwen_untested"), ("99.0.0", "qwen_untested"), ("0.24.4-x", "qwen_untested"),
     ("../0.24.4", "qwen_untested"), ("0.15.10", "qwen_too_old")],
)  # fmt: skip
def test_only_a_tested_version_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, reason: str
) -> None:
    monkeypatch.setattr(installation, "install_directory", lambda: tmp_path)
    installed(tmp_path, version)
    with pytest.raises(AgentUnavailable) as refused:
        installation.find()
    assert refused.value.reason == reason
    assert "podium setup" in (refused.value.hint or "")


def test_a_tested_version_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "install_directory", lambda: tmp_path)
    installed(tmp_path, PINNED.version)
    assert installation.find().version == PINNED.version


def test_no_environment_variable_names_another_qwen() -> None:
    """The contract tests take another one by replacing a function; a server cannot be told to."""
    room = Path(profile.__file__).parents[1]
    for source in room.rglob("*.py"):
        assert not re.search(r"PODIUM_\w*QWEN", source.read_text("utf-8")), source


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (changed(excluded=("read_file",)), "allowed and excluded: read_file"),
        (changed(offered_by_default=frozenset({"new_tool"})), "neither allowed nor excluded"),
        (changed(flags=frozenset({"yolo"})), "flags"),
        (changed(version="latest"), "version"),
        (changed().replace(b'"mode"', b'"modes"'), "modes"),
        (b"[]", "object"),
    ],
)
def test_a_broken_profile_is_refused(broken: bytes, why: str) -> None:
    assert decode(changed()) == PINNED
    with pytest.raises(ValueError, match=why):
        decode(broken)
