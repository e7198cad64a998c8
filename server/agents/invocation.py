"""The exact command, environment and settings of one attempt: values in, values out.

Measured on qwen-code 0.24.4. Plan mode alone is not read-only, so nothing is left to a default:
the working directory is empty, the environment complete, every tool but three is excluded.
"""

import os
from pathlib import Path
from typing import Any

from server.agents.installation import Installation
from server.ports import AgentOrder

MODE = "plan"
READ_TOOLS = frozenset({"read_file", "glob", "grep_search"})
RESULT_TOOL = "structured_output"
ALLOWED_TOOLS = READ_TOOLS | {RESULT_TOOL}

# --exclude-tools is the one list that takes a tool out of the request in safe mode.
EXCLUDED_TOOLS = (
    "agent", "ask_user_question", "create_goal", "cron_create", "cron_delete", "cron_list", "edit",
    "enter_worktree", "exit_plan_mode", "exit_worktree", "get_goal", "goals", "list_agents",
    "loop_wakeup", "monitor", "notebook_edit", "read_mcp_resource", "record_artifact",
    "report_findings", "run_shell_command", "send_message", "skill", "task_stop", "todo_write",
    "tool_call", "tool_search", "update_goal", "web_fetch", "web_search", "write_file",
    "zoom_image",
)  # fmt: skip

DEFAULT_WINDOW = 131_072
STREAM_IDLE_MS = 3_600_000
"""The CLI's own idle clock, put out of the way: the clocks are podium's."""


class Places:
    """The files of one attempt, below its own directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.cwd = directory / "cwd"
        self.settings = directory / "settings.json"
        self.schema = directory / "schema.json"
        self.stdout = directory / "stdout.jsonl"
        self.stderr = directory / "stderr.txt"
        self.process = directory / "process.json"


def command(installation: Installation, order: AgentOrder, places: Places) -> list[str]:
    """The argument vector. `cli.js` is run directly: the launcher would orphan its worker."""
    limits = order.limits
    return [
        str(installation.node),
        str(installation.cli),
        "--approval-mode", MODE,
        "--safe-mode",
        "--output-format", "stream-json",
        "--include-partial-messages",
        "--exclude-tools", ",".join(EXCLUDED_TOOLS),
        "--max-session-turns", str(limits.turns),
        "--max-tool-calls", str(limits.tool_calls),
        "--max-wall-time", f"{int(limits.total_seconds)}s",
        "--session-id", order.session_id,
        "--json-schema", f"@{places.schema}",
        "--system-prompt", order.prompt.system,
        "--add-dir", str(order.tree),
    ]  # fmt: skip


def environment(installation: Installation, order: AgentOrder, places: Places) -> dict[str, str]:
    """The whole environment: nothing of the server's own is handed on."""
    return {
        "HOME": str(places.home),
        "PATH": f"{installation.node.parent}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "OPENAI_BASE_URL": order.endpoint.base_url,
        # The CLI wants a key even where the endpoint needs none.
        "OPENAI_API_KEY": order.endpoint.api_key or "none",
        "OPENAI_MODEL": order.endpoint.model,
        "QWEN_CODE_NO_RELAUNCH": "true",
        "QWEN_CODE_SYSTEM_SETTINGS_PATH": str(places.settings),
        "QWEN_STREAM_IDLE_TIMEOUT_MS": str(STREAM_IDLE_MS),
        "NO_PROXY": "*",
    }


def settings(order: AgentOrder) -> dict[str, Any]:
    """The system settings, which no other settings file overrides."""
    return {
        "security": {"folderTrust": {"enabled": True}},
        "disableAllHooks": True,
        "permissions": {"deny": list(EXCLUDED_TOOLS)},
        "memory": {"enableManagedAutoMemory": False, "enableManagedAutoDream": False},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "general": {"enableAutoUpdate": False},
        "model": {
            "generationConfig": {
                "contextWindowSize": order.limits.context_tokens or DEFAULT_WINDOW,
                "samplingParams": {"max_tokens": order.limits.answer_tokens},
            }
        },
    }
