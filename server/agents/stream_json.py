"""The agent's stdout: lines of JSON in, frames and an outcome out. Pure; it waits for nothing.

What is not known is tolerated; what decides about trust or success is checked exactly.
"""

import json
from typing import Any

import msgspec

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
from server.agents.introduction import Expected, Init, distrust, read_introduction
from server.agents.invocation import RESULT_TOOL
from server.agents.reasons import FailureReason, failure
from server.agents.tally import Tally
from server.ports import AgentFailure, AgentFrame, AttemptRef

MAX_LINE = 16 * 1024 * 1024
MAX_ARGS = 2 * 1024
MAX_RESULT = 4 * 1024
MAX_TEXT = 64 * 1024
MAX_SUMMARY = 160
MAX_NAME = 200
"""Of a tool, and of a call."""
MAX_DENIALS = 1_000
MAX_COUNT = 2**31
"""Of seconds and of tries: what is more is no number that anybody counted."""


class StreamParser:
    """Parses one attempt's stdout. `feed` takes bytes as they come.

    From the line that sets `failure` on, nothing is read any more: an agent that is not what was
    asked for gets no word into the log.
    """

    def __init__(self, ref: AttemptRef, *, expected: Expected, tree: str) -> None:
        self._ref = ref
        self._expected = expected
        self._tree = tree.rstrip("/") + "/"
        self._rest = bytearray()
        self._offsets = {Channel.TEXT: 0, Channel.THINKING: 0}
        self._tools: dict[str, FlowRunStepTool] = {}
        self._said = ""
        self._answer = ""
        self._message_from = 0
        """Where in the text the message begins that a retry would discard."""
        self._tally = Tally()
        self._last_retry: dict[str, Any] | None = None
        self.init: Init | None = None
        self.result: dict[str, Any] | None = None
        self.result_is_last = False
        self.failure: AgentFailure | None = None
        """Why the attempt must end at once, when it must."""
        self.denials: list[str] = []
        self.refusal = ""
        """Why the last answer was against the schema; empty when it was not."""
        self.broken_lines = 0

    @property
    def cut(self) -> bool:
        """Whether the last line has no end."""
        return bool(self._rest)

    @property
    def running_tool(self) -> str | None:
        """A tool whose result has not come yet."""
        return next((frame.name for frame in self._tools.values()), None)

    @property
    def usage(self) -> Usage:
        """What the agent has reported so far, also when its last line never comes."""
        return self._tally.usage

    @property
    def text(self) -> str:
        """What a repair is to mend: the last answer, else the end of what the agent said."""
        return self._answer or self._said

    def feed(self, data: bytes) -> list[AgentFrame]:
        """The frames of all lines that are whole by now."""
        if self.failure is not None:
            return []
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        frames: list[AgentFrame] = []
        for line in lines:
            if self.failure is None and line.strip():
                frames += self._line(line)
        if self.failure is None:
            self._bound(self._rest)
        return frames

    def abandoned(self, why: str) -> list[FlowRunStepTool]:
        """The last frames of tools that will not answer any more, because the agent is gone."""
        left = [
            msgspec.structs.replace(frame, status=ToolStatus.FAILED, result=why[:MAX_RESULT])
            for frame in self._tools.values()
        ]
        self._tools.clear()
        return left

    def _bound(self, line: bytes | bytearray) -> None:
        if len(line) > MAX_LINE:
            self._fail(FailureReason.OUTPUT_LIMIT, "the agent wrote a line of more than 16 MB")

    def _line(self, line: bytes) -> list[AgentFrame]:
        self.result_is_last = False
        self._bound(line)
        if self.failure is not None:
            return []
        try:
            event = parse_json(line)
        except BadMessage:
            self.broken_lines += 1
            return []
        if not isinstance(event, dict):
            self.broken_lines += 1
            return []
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
            case "result", _ if self.init is not None or event.get("is_error"):
                # An error says why there is no introduction.
                self._take_result(event)
            case (("stream_event" | "assistant" | "user" | "result"), _) | ("system", "retry"):
                if self.init is not None:
                    return self._spoken(event)
                message = "the agent began without saying what it is; it was stopped"
                self._fail(FailureReason.NO_INTRODUCTION, message)
        return []

    def _spoken(self, event: dict[str, Any]) -> list[AgentFrame]:
        if event["type"] == "system":
            return self._retry(event["data"])
        self._last_retry = None
        match event["type"]:
            case "stream_event":
                return self._stream_event(event["event"])
            case "assistant":
                self._tally.message_cost(event["message"].get("usage"))
                return self._assistant(event["message"]["content"])
            case _:
                # What was said before a tool ran stands, whatever is retried after it.
                self._tally.message_ended()
                self._message_from = self._offsets[Channel.TEXT]
                return self._tool_results(event["message"]["content"])

    def _fail(self, reason: FailureReason, message: str) -> None:
        self.failure = failure(reason, message)

    # --- the first and the last line ------------------------------------------------------------

    def _take_init(self, event: dict[str, Any]) -> None:
        """Each introduction is checked: a later one cannot heal an earlier one, nor relax it."""
        init = read_introduction(event)
        if init is None:
            message = "what the agent says of itself cannot be read; it was stopped"
            self._fail(FailureReason.NO_INTRODUCTION, message)
            return
        self.init = init
        self.failure = distrust(init, self._expected)

    def _take_result(self, event: dict[str, Any]) -> None:
        self.result = event
        self.result_is_last = True
        self._tally.attempt_cost(event.get("usage"))
        room = MAX_DENIALS - len(self.denials)
        for denial in (event.get("permission_denials") or [])[:room]:
            self.denials.append(str(denial.get("tool_name"))[:MAX_NAME])

    # --- what it says ---------------------------------------------------------------------------

    def _stream_event(self, event: dict[str, Any]) -> list[AgentFrame]:
        match event.get("type"):
            case "message_start":
                self._tally.message_began()
                self._message_from = self._offsets[Channel.TEXT]
            case "content_block_delta":
                return self._block_delta(event["delta"])
        return []

    def _block_delta(self, delta: dict[str, Any]) -> list[AgentFrame]:
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
            self._said = (self._said + text)[-MAX_TEXT:]
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

    def _retry(self, data: dict[str, Any]) -> list[AgentFrame]:
        """The CLI asks the model again by itself, and waits silently meanwhile.

        With `preserve_text` the answer goes on behind what was said, and may repeat it; without,
        the code points `text_from` to `text_to` of the text no longer count. (The CLI tells of some
        retries twice in a row: the second is no news.)
        """
        if data == self._last_retry:
            return []
        self._last_retry = data
        kept = bool(data.get("preserveText"))
        self._tally.retried(preserve_text=kept)
        seconds = round(min(float(data.get("delayMs") or 0) / 1000, MAX_COUNT))
        told: dict[str, Any] = {"preserve_text": kept, "seconds": seconds}
        for name, field in (("attempt", "attempt"), ("of", "maxRetries")):
            if type(data.get(field)) is int and 0 <= data[field] <= MAX_COUNT:
                told[name] = data[field]
        if not kept and self._message_from < self._offsets[Channel.TEXT]:
            told |= {"text_from": self._message_from, "text_to": self._offsets[Channel.TEXT]}
            self._discard()
        return [self._notice("model_retry", _retry_message(told), told)]

    def _discard(self) -> None:
        """Take the message that is begun anew out of what the agent has said."""
        length = self._offsets[Channel.TEXT] - self._message_from
        self._said = self._said[: max(0, len(self._said) - length)]
        self._message_from = self._offsets[Channel.TEXT]

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
            self._answer = json.dumps(arguments, ensure_ascii=False)[:MAX_TEXT]
        frame = FlowRunStepTool(
            run_id=self._ref.run_id,
            step_id=self._ref.step_id,
            attempt=self._ref.attempt,
            call_id=str(block["id"])[:MAX_NAME],
            name=str(block["name"])[:MAX_NAME],
            status=ToolStatus.RUNNING,
            summary=self._summary(str(block["name"]), arguments),
            args=json.dumps(arguments, ensure_ascii=False)[:MAX_ARGS],
        )
        self._tools[frame.call_id] = frame
        return frame

    def _tool_results(self, content: list[dict[str, Any]]) -> list[AgentFrame]:
        return [self._tool_result(block) for block in content if block.get("type") == "tool_result"]

    def _tool_result(self, block: dict[str, Any]) -> FlowRunStepTool:
        call_id = str(block["tool_use_id"])[:MAX_NAME]
        text = _plain(block.get("content"))
        begun = self._tools.pop(call_id, None)
        name = begun.name if begun else "unknown"
        failed = bool(block.get("is_error"))
        self.refusal = text[:MAX_RESULT] if name == RESULT_TOOL and failed else ""
        if begun and not failed and name not in self._expected.tools:
            message = (
                f"the agent ran `{name[:MAX_SUMMARY]}`, which it must not have; it was stopped"
            )
            self._fail(FailureReason.UNEXPECTED_TOOLS, message)
        return FlowRunStepTool(
            run_id=self._ref.run_id,
            step_id=self._ref.step_id,
            attempt=self._ref.attempt,
            call_id=call_id,
            name=name,
            status=_tool_status(text, is_error=failed),
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


def _retry_message(told: dict[str, Any]) -> str:
    when = f" in {told['seconds']} s" if told["seconds"] else ""
    which = f" (try {told['attempt']} of {told.get('of', '?')})" if "attempt" in told else ""
    then = "It goes on behind what was said." if told["preserve_text"] else "It begins anew."
    return f"The model call failed and is made again{when}{which}. {then}"


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
