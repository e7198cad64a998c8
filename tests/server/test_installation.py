"""Which Node is found: the program itself, behind whatever PATH names."""

import shutil
import sys
from pathlib import Path

import pytest

from server.agents.installation import find_node
from server.ports import AgentUnavailable
from tests.fakes.scripted import node


def named(place: Path, script: str) -> Path:
    program = place / "node"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_behind_a_script_is_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = node()
    script = named(tmp_path, f'"{program}" "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = find_node()
    assert found.named == script, "npm is looked for beside it"
    assert found.program == program
    assert shutil.which("node") == str(script)


@pytest.mark.parametrize("script", ["echo 20.1.0 /usr/bin/node", "echo nothing", "exit 1"])
def test_what_is_too_old_or_no_node_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    named(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "none"))
    with pytest.raises(AgentUnavailable) as refused:
        find_node()
    assert refused.value.reason == "node_missing"
