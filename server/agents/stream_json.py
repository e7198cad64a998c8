"""The agent's stdout: lines of JSON in, frames and an outcome out. Pure; it waits for nothing.

What is not known is tolerated; what decides about trust or success is checked exactly.
"""

import json
from typing import Any

from msgspec import Struct

from protocol.codec import parse_json
from protocol.errors import BadMessage
from protocol.frames import (
    Channel,
    FlowRunStepDelta,
    FlowRunStepNotice,
    FlowRunStepTool,
    ToolStatus,
)
from protocol.resources import Usage
from server.agents.invocation import ALLOWED_TOOLS, MODE, RESULT_TOOL
from server.ports import AgentFailure, AgentFrame, AttemptRef

MAX_LINE = 16 * 1024 * 1024
MAX_ARGS = 2 * 1024
MAX_RESULT = 4 * 1024
MAX_TEXT = 64 * 1024
MAX_SUMMARY = 160


class Init(Struct, frozen=True, kw_only=True):
    """What the agent says of itself in its first line."""

    version: str
    mode: str
    model: str
    tools: tuple[str, ...]
    mcp_servers: int


class StreamParser:
    """Parses one attempt's stdout. `feed` takes bytes as they come."""

    def __init__(self, ref: AttemptRef, *, model: str, tree: str) -> None:
        self._ref = ref
        self._model = model
        self._tree = tree.rstrip("/") + "/"
        self._rest = b""
        self._offsets = {Channel.TEXT: 0, Channel.THINKING: 0}
        self._tools: dict[str, FlowRunStepTool] = {}
        self.init: Init | None = None
        self.result: dict[str, Any] | None = None
        self.failure: AgentFailure | None = None
        """Why the attempt must end at once, when it must."""
        self.denials: list[str] = []
        self.text = ""
        """The end of what the agent said."""
        self.usage = Usage()
        self.requests = 0
        self.broken_lines = 0
        self.events = 0

    @property
    def cut(self) -> bool:
        """Whether the last line has no end."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[AgentFrame]:
        """The frames of all lines that are whole by now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            self.failure = AgentFailure(
                reason="output_limit", message="the agent wrote a line of more than 16 MB"
            )
        frames: list[AgentFrame] = []
        for line in lines:
            if line.strip():
                frames += self._line(line)
        return frames

    def _line(self, line: bytes) -> list[AgentFrame]:
        try:
            event = parse_json(line)
        except BadMessage:
            self.broken_lines += 1
            return []
        if not isinstance(event, dict):
            self.broken_lines += 1
            return []
        self.events += 1
        try:
            return self._event(event)
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError):
            # A known event of an unknown shape: tolerated, the success rule decides at the end.
            self.broken_lines += 1
            return []

    def _event(self, event: dict[str, Any]) -> list[AgentFrame]:
        match event.get("type"), event.get("subtype"):
            case "system", "init":
                self._take_init(event)
            case "system", "retry":
                return [self._retry(event["data"])]
            case "stream_event", _:
                return self._stream_event(event["event"])
            case "assistant", _:
                self.requests += 1
                return self._assistant(event["message"]["content"])
            case "user", _:
                return self._tool_results(event["message"]["content"])
            case "result", _:
                self._take_result(event)
        return []

    # --- the first and the last line ------------------------------------------------------------

    def _take_init(self, event: dict[str, Any]) -> None:
        self.init = Init(
            version=str(event["qwen_code_version"]),
            mode=str(event["permission_mode"]),
            model=str(event["model"]),
            tools=tuple(sorted(map(str, event["tools"]))),
            mcp_servers=len(event["mcp_servers"]),
        )
        self.failure = self.failure or _distrust(self.init, self._model)

    def _take_result(self, event: dict[str, Any]) -> None:
        self.result = event
        usage = event.get("usage") or {}
        self.usage = Usage(
            input_tokens=_count(usage.get("input_tokens")),
            output_tokens=_count(usage.get("output_tokens")),
            cached_tokens=_count(usage.get("cache_read_input_tokens")),
            requests=self.requests,
        )
        for denial in event.get("permission_denials") or []:
            self.denials.append(str(denial.get("tool_name")))

    # --- what it says ---------------------------------------------------------------------------

    def _stream_event(self, event: dict[str, Any]) -> list[AgentFrame]:
        if event.get("type") != "content_block_delta":
            return []
        delta = event["delta"]
        match delta.get("type"):
            case "text_delta":
                return self._delta(Channel.TEXT, delta["text"])
            case "thinking_delta":
                return self._delta(Channel.THINKING, delta["thinking"])
        return []

    def _delta(self, channel: Channel, text: str) -> list[AgentFrame]:
        if not isinstance(text, str):
            raise TypeError("the text of a delta is no text")
        if not text:
            return []
        offset = self._offsets[channel]
        self._offsets[channel] += len(text)
        if channel is Channel.TEXT:
            self.text = (self.text + text)[-MAX_TEXT:]
        return [
            FlowRunStepDelta(
                run_id=self._ref.run_id,
                step_id=self._ref.step_id,
                attempt=self._ref.attempt,
                channel=channel,
                offset=offset,
                text=text,
            )
        ]

    def _retry(self, data: dict[str, Any]) -> FlowRunStepNotice:
        """The CLI asks the model again by itself, and waits silently meanwhile."""
        kept = bool(data.get("preserveText"))
        wait = round(float(data.get("delayMs") or 0) / 1000)
        message = (
            f"The model call failed; attempt {data.get('attempt')} of {data.get('maxRetries')}"
            f" follows in {wait} s. "
        )
        message += "It may repeat text." if kept else "It starts its answer anew."
        return self._notice("model_retry", message, data)

    def _notice(self, code: str, message: str, data: dict[str, Any]) -> FlowRunStepNotice:
        return FlowRunStepNotice(
            run_id=self._ref.run_id,
            step_id=self._ref.step_id,
            attempt=self._ref.attempt,
            code=code,
            message=message,
            data=data,
        )

    # --- tools ----------------------------------------------------------------------------------

    def _assistant(self, content: list[dict[str, Any]]) -> list[AgentFrame]:
        return [self._tool_call(block) for block in content if block.get("type") == "tool_use"]

    def _tool_call(self, block: dict[str, Any]) -> FlowRunStepTool:
        arguments = block.get("input") or {}
        if block["name"] == RESULT_TOOL:
            self.text = json.dumps(arguments, ensure_ascii=False)[:MAX_TEXT]
        frame = FlowRunStepTool(
            run_id=self._ref.run_id,
            step_id=self._ref.step_id,
            attempt=self._ref.attempt,
            call_id=str(block["id"]),
            name=str(block["name"]),
            status=ToolStatus.RUNNING,
            summary=self._summary(str(block["name"]), arguments),
            args=json.dumps(arguments, ensure_ascii=False)[:MAX_ARGS],
        )
        self._tools[frame.call_id] = frame
        return frame

    def _tool_results(self, content: list[dict[str, Any]]) -> list[AgentFrame]:
        return [self._tool_result(block) for block in content if block.get("type") == "tool_result"]

    def _tool_result(self, block: dict[str, Any]) -> FlowRunStepTool:
        call_id = str(block["tool_use_id"])
        text = _plain(block.get("content"))
        begun = self._tools.pop(call_id, None)
        name = begun.name if begun else "unknown"
        return FlowRunStepTool(
            run_id=self._ref.run_id,
            step_id=self._ref.step_id,
            attempt=self._ref.attempt,
            call_id=call_id,
            name=name,
            status=_tool_status(text, is_error=bool(block.get("is_error"))),
            summary=begun.summary if begun else name,
            args=begun.args if begun else None,
            result=text[:MAX_RESULT],
        )

    def _summary(self, name: str, arguments: dict[str, Any]) -> str:
        """One line: the tool and what it looks at, paths as the repository has them."""
        if name == RESULT_TOOL:
            return "delivers its result"
        shown = [str(value) for value in arguments.values() if isinstance(value, str | int)]
        text = f"{name} {' '.join(shown)}".replace(self._tree, "").replace(self._tree[:-1], ".")
        return " ".join(text.split())[:MAX_SUMMARY]


def _count(value: object) -> int:
    """A number of tokens; what is none counts as nothing."""
    return value if type(value) is int and 0 <= value < 2**53 else 0


def _distrust(init: Init, model: str) -> AgentFailure | None:
    """Why an agent that introduces itself like this must not go on; None when it may."""
    surprises = sorted(set(init.tools) - ALLOWED_TOOLS)
    checks = (
        (init.mode != MODE, "wrong_mode", f"the agent runs in mode `{init.mode}`, not `{MODE}`"),
        (init.model != model, "wrong_model", f"the agent uses `{init.model}`, not `{model}`"),
        (init.mcp_servers > 0, "mcp_servers", "the agent has tool servers that nobody allowed"),
        (bool(surprises), "unexpected_tools", f"the agent was offered {', '.join(surprises)}"),
    )
    for wrong, reason, message in checks:
        if wrong:
            return AgentFailure(reason=reason, message=f"{message}; it was stopped")
    return None


def _tool_status(text: str, *, is_error: bool) -> ToolStatus:
    if not is_error:
        return ToolStatus.OK
    denied = "declined" in text or "denied" in text or "requires permission" in text
    return ToolStatus.DENIED if denied else ToolStatus.FAILED


def _plain(content: object) -> str:
    """A tool result as text: a string, or the text of its blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    return ""
