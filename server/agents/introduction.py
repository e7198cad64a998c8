"""The agent's first line, held against what was asked for. Everything must match exactly."""

from typing import Any

import msgspec
from msgspec import Struct

from server.agents.invocation import ALLOWED_TOOLS, MODE
from server.agents.reasons import FailureReason, failure
from server.ports import AgentFailure

MAX_SHOWN = 300
MAX_WORD, MAX_TOOLS = 100, 100
"""What is kept of it goes into receipts. Nothing that was expected is as long."""


class Expected(Struct, frozen=True, kw_only=True):
    """What the first line has to say."""

    version: str
    model: str
    mode: str = MODE
    tools: frozenset[str] = ALLOWED_TOOLS


class Init(Struct, frozen=True, kw_only=True):
    """What the agent says of itself in its first line."""

    version: str
    mode: str
    model: str
    tools: tuple[str, ...]
    mcp_servers: int


class _Line(Struct, frozen=True):
    """The part of the line that decides; what else it has is not looked at."""

    qwen_code_version: str
    permission_mode: str
    model: str
    tools: list[str]
    mcp_servers: list[Any]


def read_introduction(event: dict[str, Any]) -> Init | None:
    """What the first line says; None when a field is missing or of another kind."""
    try:
        line = msgspec.convert(event, _Line)
    except msgspec.ValidationError:
        return None
    # Each tool once before they are cut: names said often must not push another one out.
    tools = sorted({name[:MAX_WORD] for name in line.tools})[:MAX_TOOLS]
    return Init(
        version=line.qwen_code_version[:MAX_WORD],
        mode=line.permission_mode[:MAX_WORD],
        model=line.model,
        tools=tuple(tools),
        mcp_servers=len(line.mcp_servers),
    )


def distrust(init: Init, expected: Expected) -> AgentFailure | None:
    """Why an agent that introduces itself like this must not go on; None when it may."""
    offered = set(init.tools)
    surplus, lacking = sorted(offered - expected.tools), sorted(expected.tools - offered)
    mode, model, version = expected.mode, expected.model, expected.version
    reason = FailureReason
    checks = (
        (init.version != version, reason.WRONG_VERSION, f"is qwen {init.version}, not {version}"),
        (init.mode != mode, reason.WRONG_MODE, f"runs in mode `{init.mode}`, not `{mode}`"),
        (init.model != model, reason.WRONG_MODEL, f"uses the model `{init.model}`, not `{model}`"),
        (init.mcp_servers > 0, reason.MCP_SERVERS, "has tool servers that nobody allowed"),
        (bool(surplus), reason.UNEXPECTED_TOOLS, f"was offered {', '.join(surplus)}"),
        (bool(lacking), reason.MISSING_TOOLS, f"was not offered {', '.join(lacking)}"),
    )
    for wrong, name, message in checks:
        if wrong:
            return failure(name, f"the agent {message[:MAX_SHOWN]}; it was stopped")
    return None
