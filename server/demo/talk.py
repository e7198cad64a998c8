"""What a conversation says so far: the step that podium asked for, and what the tools returned."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from flows.outputs import CitedLines
from server.demo.wire import Message

_STEP = re.compile(r"^<<<podium-step\s*\n(.*)\n\s*podium-step>>>", re.MULTILINE)
_DATA = re.compile(
    r"^<<<data (?P<name>\S+) (?P<marker>\S+)\s*\n(?P<text>.*?)\n\s*(?P=marker) (?P=name) data>>>",
    re.MULTILINE | re.DOTALL,
)
_MARKER = re.compile(r"marker:\s*([\w-]+)")


class Submitted(Struct, frozen=True):
    """A finding that the validator is to judge."""

    id: str
    title: str = ""
    citations: tuple[CitedLines, ...] = ()


class Step(Struct, frozen=True):
    """The machine-readable block of podium's prompt."""

    step: str
    role: str
    output: str
    root: str
    files: tuple[str, ...] = ()
    dimensions: tuple[str, ...] = ()
    max_findings: int = 10
    submitted: tuple[Submitted, ...] = ()


class Done(Struct, frozen=True):
    """A tool call that was answered."""

    name: str
    arguments: dict[str, Any]
    result: str


class Talk(Struct, frozen=True):
    """One conversation, read. `step` is None when the prompt is not podium's."""

    step: Step | None
    data: dict[str, str]
    marker: str | None
    done: tuple[Done, ...]

    def calls(self, name: str) -> list[Done]:
        """The answered calls of one tool, in order."""
        return [done for done in self.done if done.name == name]


def read_talk(messages: Sequence[Message]) -> Talk:
    """Read a whole conversation."""
    prompt = "\n".join(message.text for message in messages if message.role == "user")
    # podium writes every at sign as \@, because the CLI replaces a bare @word.
    prompt = prompt.replace("\\@", "@")
    marker = _MARKER.search(prompt)
    return Talk(
        step=_read_step(prompt),
        data={found["name"]: found["text"] for found in _DATA.finditer(prompt)},
        marker=marker[1] if marker else None,
        done=tuple(_answered(messages)),
    )


def _read_step(prompt: str) -> Step | None:
    # The last block that decodes: text of a user that is quoted in the prompt stands before it.
    for found in reversed(_STEP.findall(prompt)):
        try:
            return msgspec.json.decode(found, type=Step)
        except msgspec.DecodeError:
            continue
    return None


def _answered(messages: Sequence[Message]) -> list[Done]:
    results = {m.tool_call_id: m.text for m in messages if m.role == "tool"}
    calls = [made for message in messages for made in message.tool_calls or ()]
    return [
        Done(made.function.name, _arguments(made.function.arguments), results[made.id])
        for made in calls
        if made.id in results
    ]


def _arguments(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
