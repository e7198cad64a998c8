"""The command, environment and settings of an attempt, word for word where it matters."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from flows.briefing import Prompt
from protocol.ids import RunId, StepId
from server.agents import invocation
from server.agents.installation import Installation
from server.agents.invocation import Door, Places
from server.ports import AgentOrder, AgentUnavailable, AttemptLimits, AttemptRef, ModelEndpoint

INSTALLED = Installation(Path("/n/bin/node"), Path("/q/cli.js"), "0.24.4")
PLACES = Places(Path("/data/attempts/r/s/1"))
DOOR = Door("http://127.0.0.1:4141/v1", "a-token")
USER_TEXT = "/init @/etc/passwd --yolo"


def order(*, model: str = "m", key: str = "the-key", window: int | None = None) -> AgentOrder:
    return AgentOrder(
        ref=AttemptRef(RunId("r"), StepId("s"), 1),
        session_id="11111111-1111-4111-8111-111111111111",
        prompt=Prompt(system="You review.", user=USER_TEXT),
        schema={"type": "object"},
        tree=Path("/copy"),
        repository=Path("/home/someone/shop"),
        endpoint=ModelEndpoint(name="d", base_url="http://h:1/v1", api_key=key, model=model),
        limits=AttemptLimits(
            turns=8, tool_calls=20, answer_tokens=777, context_tokens=window, total_seconds=61.9,
            first_byte_seconds=1, idle_seconds=1,
        ),
    )  # fmt: skip


def test_the_command() -> None:
    words = invocation.command(INSTALLED, order(), PLACES)
    assert words[:2] == ["/n/bin/node", "/q/cli.js"]
    options = dict(itertools.pairwise(words))
    assert options["--approval-mode"] == "plan"
    assert options["--output-format"] == "stream-json"
    assert options["--max-session-turns"] == "8"
    assert options["--max-tool-calls"] == "20"
    assert options["--max-wall-time"] == "61s"
    assert options["--add-dir"] == "/copy"
    assert options["--json-schema"] == "@/data/attempts/r/s/1/schema.json"
    assert {"--safe-mode", "--include-partial-messages"} <= set(words)
    assert not {"--allowed-tools", "--yolo", "-p", "--prompt", "--core-tools"} & set(words)


@pytest.mark.parametrize("secret", [USER_TEXT, "the-key", "/home/someone"])
def test_what_every_local_user_can_read_holds_no_secret(secret: str) -> None:
    assert secret not in "\0".join(invocation.command(INSTALLED, order(), PLACES))


def test_nothing_that_writes_is_offered() -> None:
    words = invocation.command(INSTALLED, order(), PLACES)
    excluded = set(words[words.index("--exclude-tools") + 1].split(","))
    dangerous = {
        "write_file", "edit", "notebook_edit", "run_shell_command", "enter_worktree", "web_fetch",
        "agent", "skill", "monitor", "tool_call", "tool_search", "exit_plan_mode", "cron_create",
    }  # fmt: skip
    assert dangerous <= excluded
    assert not excluded & invocation.ALLOWED_TOOLS
    assert set(invocation.settings(INSTALLED, order())["permissions"]["deny"]) == excluded


@pytest.mark.parametrize("build", [invocation.command, invocation.settings])
def test_a_version_that_was_never_tested_has_no_command(build: Any) -> None:
    untested = INSTALLED._replace(version="0.24.5")
    rest = (order(), PLACES) if build is invocation.command else (order(),)
    assert build(INSTALLED, *rest)
    with pytest.raises(AgentUnavailable) as refused:
        build(untested, *rest)
    assert refused.value.reason == "qwen_untested"


def test_the_environment_is_complete_and_nothing_of_the_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NODE_OPTIONS", "HTTP_PROXY", "QWEN_SYSTEM_MD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush")
    found = invocation.environment(INSTALLED, order(key="hush"), PLACES, DOOR)
    assert sorted(found) == [
        "HOME", "LANG", "NO_COLOR", "NO_PROXY", "OPENAI_API_KEY", "OPENAI_BASE_URL",
        "OPENAI_MODEL", "PATH", "QWEN_CODE_NO_RELAUNCH", "QWEN_CODE_SYSTEM_SETTINGS_PATH",
        "QWEN_STREAM_IDLE_TIMEOUT_MS", "TERM",
    ]  # fmt: skip
    assert found["HOME"] == "/data/attempts/r/s/1/home"
    assert found["PATH"].split(":")[0] == "/n/bin"
    assert "hush" not in str(found)


def test_the_agent_gets_the_relays_address_and_a_token_but_never_the_key() -> None:
    found = invocation.environment(INSTALLED, order(key="the-key"), PLACES, DOOR)
    assert (found["OPENAI_BASE_URL"], found["OPENAI_API_KEY"]) == DOOR
    assert "the-key" not in str(found)
