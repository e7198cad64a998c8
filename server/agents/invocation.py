"""The exact command, environment and settings of one attempt: values in, values out.

Plan mode alone is not read-only, so nothing is left to a default: the working directory is empty,
the environment complete, and every tool but those of the version's profile is excluded by name.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from server.agents.installation import Installation
from server.agents.profile import PINNED, profile_of
from server.ports import AgentOrder

RESULT_TOOL = "structured_output"
MODE = PINNED.mode
ALLOWED_TOOLS = PINNED.tools

DEFAULT_WINDOW = 131_072
STREAM_IDLE_MS = 3_600_000
"""The CLI's own idle clock, put out of the way: the clocks are podium's."""


class Door(NamedTuple):
    """Where the agent finds the relay, and the token that the relay knows it by."""

    base_url: str
    token: str


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
    """The argument vector. `cli.js` is run directly: the launcher would orphan its worker.

    Raises AgentUnavailable for a version that has no profile.
    """
    profile = profile_of(installation.version)
    limits = order.limits
    return [
        str(installation.node),
        str(installation.cli),
        "--approval-mode", profile.mode,
        "--safe-mode",
        "--output-format", "stream-json",
        "--include-partial-messages",
        # The one list that takes a tool out of the request in safe mode.
        "--exclude-tools", ",".join(profile.excluded),
        "--max-session-turns", str(limits.turns),
        "--max-tool-calls", str(limits.tool_calls),
        "--max-wall-time", f"{int(limits.total_seconds)}s",
        "--session-id", order.session_id,
        "--json-schema", f"@{places.schema}",
        "--system-prompt", order.prompt.system,
        "--add-dir", str(order.tree),
    ]  # fmt: skip


def environment(
    installation: Installation, order: AgentOrder, places: Places, door: Door
) -> dict[str, str]:
    """The whole environment: nothing of the server's own is handed on, the endpoint's key least."""
    return {
        "HOME": str(places.home),
        "PATH": f"{installation.node.parent}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "OPENAI_BASE_URL": door.base_url,
        "OPENAI_API_KEY": door.token,
        "OPENAI_MODEL": order.endpoint.model,
        "QWEN_CODE_NO_RELAUNCH": "true",
        "QWEN_CODE_SYSTEM_SETTINGS_PATH": str(places.settings),
        "QWEN_STREAM_IDLE_TIMEOUT_MS": str(STREAM_IDLE_MS),
        "NO_PROXY": "*",
    }


def settings(installation: Installation, order: AgentOrder) -> dict[str, Any]:
    """The system settings, which no other settings file overrides."""
    return {
        "security": {"folderTrust": {"enabled": True}},
        "disableAllHooks": True,
        "permissions": {"deny": list(profile_of(installation.version).excluded)},
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
