"""`podium flows`: what a flow takes is shown, and the documentation names the same."""

from pathlib import Path

import pytest

from flows.slash import roles_of
from server.commands.showing import FLAGS, print_flows
from tests.flows.plans import CATALOGUE, REVIEW

OPERATE = (Path(__file__).parents[2] / "docs" / "operate.md").read_text("utf-8")


def test_a_flow_shows_its_flags_and_its_roles(capsys: pytest.CaptureFixture[str]) -> None:
    print_flows(CATALOGUE, "review", as_json=False)
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    assert {"--base", "--only", "--skip", "--exclude"} <= set(lines)
    assert set(roles_of(REVIEW)) <= set(lines)


def test_one_agent_is_one_agent(capsys: pytest.CaptureFixture[str]) -> None:
    print_flows(CATALOGUE, "issue-triage", as_json=False)
    out = capsys.readouterr().out
    assert "1 agent: " in out
    assert "1 agents" not in out


@pytest.mark.parametrize("word", [*FLAGS, *roles_of(REVIEW)])
def test_the_documentation_names_every_flag_and_role(word: str) -> None:
    assert f"`{word}" in OPERATE.partition("## What a command may say")[2].partition("\n## ")[0]
