"""The REAL qwen, driven by the demo model, for each kind of result."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from flows.outputs import (
    OUTPUTS,
    CitedLines,
    FindingsOutput,
    IssueType,
    Output,
    TriageOutput,
    VerdictsOutput,
)
from protocol.report import VerdictKind
from server.demo.app import create_app
from tests.fakes.model import serving

pytestmark = pytest.mark.real_agent

Result = TypeVar("Result", bound=Output)

TOOLS = {"read_file", "glob", "grep_search", "structured_output"}
EXCLUDED = (
    "run_shell_command,write_file,edit,notebook_edit,monitor,web_fetch,web_search,agent,skill,"
    "enter_worktree,exit_worktree,tool_call,tool_search,send_message,task_stop,cron_create,"
    "cron_delete,cron_list,loop_wakeup,record_artifact,exit_plan_mode,ask_user_question,todo_write,"
    "zoom_image,goals,get_goal,update_goal,create_goal,list_agents,read_mcp_resource,"
    "report_findings"
)
SETTINGS = {
    "security": {"folderTrust": {"enabled": True}},
    "disableAllHooks": True,
    "memory": {"enableManagedAutoMemory": False, "enableManagedAutoDream": False},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {"enableAutoUpdate": False},
    "model": {
        "generationConfig": {
            "contextWindowSize": 131_072,
            "samplingParams": {"max_tokens": 8_192},
        }
    },
}
FILES = {
    "src/shop/orders.py": (
        "import subprocess\n\n\n"
        "def export(orders, path, seen=[]):\n"
        "    # TODO: quote the path\n"
        "    try:\n"
        '        subprocess.run(f"cp orders.csv {path}", shell=True)\n'
        "    except Exception:\n"
        "        pass\n\n\n"
        "def mean_price(prices):\n"
        "    return sum(prices) / len(prices)\n"
    ),
    "src/shop/clean.py": "LIMIT = 10\n",
    "src/long.py": "".join(f"value_{n} = {n}  # a line of some length\n" for n in range(2_000))
    + "# FIXME: far beyond what one read returns\n",
    "src/crlf.py": "def run(items=[]):\r\n    return items\r\n",
}


class Agent:
    """Where node and the CLI are, and one way to run them in a directory of the test's own."""

    def __init__(self, node: str, cli: Path, home: Path) -> None:
        self._node, self._cli, self._home = node, cli, home
        self.tree = home / "tree"

    def run(self, base_url: str, prompt: str, schema: dict[str, Any]) -> list[dict[str, Any]]:
        """Run one attempt; returns its events. Fails when its exit code is not 0."""
        for name in ("empty", "home"):
            (self._home / name).mkdir()
        (self._home / "schema.json").write_text(json.dumps(schema))
        (self._home / "settings.json").write_text(json.dumps(SETTINGS))
        out = self._home / "stdout"
        with out.open("wb") as stdout:
            ended = subprocess.run(
                self._command(),
                input=prompt.encode(),
                stdout=stdout,
                stderr=subprocess.PIPE,
                cwd=self._home / "empty",
                env=self._environment(base_url),
                timeout=50,
                check=False,
            )
        assert ended.returncode == 0, ended.stderr.decode()[-2_000:]
        return [json.loads(line) for line in out.read_text().splitlines()]

    def _command(self) -> list[str]:
        return [
            *(self._node, str(self._cli), "--approval-mode", "plan", "--safe-mode"),
            *("--output-format", "stream-json", "--include-partial-messages"),
            *("--exclude-tools", EXCLUDED, "--max-session-turns", "12"),
            *("--max-tool-calls", "30", "--max-wall-time", "40"),
            *("--session-id", str(uuid.uuid4()), "--system-prompt", "You review code."),
            *("--json-schema", f"@{self._home / 'schema.json'}", "--add-dir", str(self.tree)),
        ]

    def _environment(self, base_url: str) -> dict[str, str]:
        return {
            "HOME": str(self._home / "home"),
            "PATH": os.pathsep.join([str(Path(self._node).parent), "/usr/bin", "/bin"]),
            "LANG": "C.UTF-8",
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": base_url,
            "OPENAI_MODEL": "podium-demo",
            "QWEN_CODE_NO_RELAUNCH": "true",
            "QWEN_CODE_SYSTEM_SETTINGS_PATH": str(self._home / "settings.json"),
        }


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    installed = Path("share/podium/qwen/node_modules/@qwen-code/qwen-code/cli.js")
    cli = Path(os.environ.get("PODIUM_TEST_QWEN", Path(sys.prefix) / installed))
    beside = str(Path(sys.prefix) / "bin")
    search = os.pathsep.join([beside, os.environ.get("PATH", "")])
    node = os.environ.get("PODIUM_TEST_NODE") or shutil.which("node", path=search)
    if node is None or not cli.exists():
        pytest.skip("no qwen here: set PODIUM_TEST_NODE and PODIUM_TEST_QWEN")
    for name, text in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return Agent(node, cli, tmp_path)


async def attempt(
    agent: Agent, kind: type[Result], data: str = "", **step: object
) -> tuple[Result, list[dict[str, Any]]]:
    """Run one step; returns its checked result and all its events."""
    name = next(name for name, output in OUTPUTS.items() if output is kind)
    block = {"step": "s", "role": "generalist", "output": name, "root": str(agent.tree), **step}
    prompt = f"This is podium.\n{data}<<<podium-step\n{json.dumps(block)}\npodium-step>>>\n"
    async with serving(create_app(pace=0)) as url:
        events = await asyncio.to_thread(agent.run, url, prompt, root_object(kind))
    last = events[-1]
    assert (last["type"], last["subtype"], last["is_error"]) == ("result", "success", False)
    assert set(events[0]["tools"]) == TOOLS
    assert last["permission_denials"] == []
    return msgspec.convert(last["structured_result"], kind), events


def root_object(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The schema with its root spelled out: the CLI refuses a root that is a reference."""
    schema = msgspec.json.schema(kind)
    definitions = schema["$defs"]
    return {**definitions.pop(kind.__name__), "$defs": definitions}


def assert_quoted(cited: CitedLines) -> None:
    lines = FILES[cited.path].replace("\r\n", "\n").split("\n")
    assert cited.quote == "\n".join(lines[cited.line_start - 1 : cited.line_end])


async def test_findings_come_from_what_qwen_really_read(agent: Agent) -> None:
    dimensions = ["error handling", "correctness", "naming"]
    output, events = await attempt(agent, FindingsOutput, files=list(FILES), dimensions=dimensions)
    cited = [citation for finding in output.findings for citation in finding.citations]
    for citation in cited:
        assert_quoted(citation)
    assert {citation.path for citation in cited} == {"src/shop/orders.py", "src/crlf.py"}
    assert {finding.alias for finding in output.findings} == {
        "swallowed-exception",
        "broad-except",
        "mutable-default",
        "note-left",
    }
    assert [cleared.dimension for cleared in output.cleared] == ["naming"]
    assert any("src/long.py (the first" in place for place in output.searched)
    assert sum(event["type"] == "stream_event" for event in events) > 40


async def test_nothing_found_is_a_valid_result(agent: Agent) -> None:
    output, _ = await attempt(agent, FindingsOutput, role="data", files=["src/shop/clean.py"])
    assert output.negative
    assert output.searched[-1] == "read_file src/shop/clean.py (whole)"


async def test_verdicts_compare_quotes_with_the_tree(agent: Agent) -> None:
    place = {"path": "src/shop/orders.py", "line_start": 4, "line_end": 4}
    quotes = {"EV-001": "def export(orders, path, seen=[]):", "EV-002": "def never_written_here():"}
    submitted = [
        {
            "id": name,
            "title": "t",
            "claim": "c",
            "severity": "warning",
            "citations": [{**place, "quote": quote}],
        }
        for name, quote in quotes.items()
    ]
    output, _ = await attempt(agent, VerdictsOutput, submitted=submitted)
    verdicts = {verdict.finding_id: verdict for verdict in output.verdicts}
    assert verdicts["EV-001"].verdict is VerdictKind.CONFIRMED
    assert verdicts["EV-002"].verdict is VerdictKind.REFUTED
    for verdict in output.verdicts:
        assert_quoted(verdict.citations[0])


async def test_triage_finds_the_suspected_place(agent: Agent) -> None:
    issue = "mean_price crashes with a ZeroDivisionError when I give it no prices."
    data = f"<<<data issue k7x\n{issue}\nk7x issue data>>>\n"
    output, _ = await attempt(agent, TriageOutput, data)
    assert output.type is IssueType.BUG
    assert output.suspected[0].area == "src/shop/orders.py"
    for citation in output.suspected[0].citations:
        assert_quoted(citation)
