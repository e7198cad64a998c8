"""The script: (messages, tools) → the next turn. A pure function of the request, always ending.

A step's conversation is: look (search, reads) as long as the planner of its output wants to and
fewer than `LOOKS` turns have passed, then the one result. A result that was refused is not tried
again: the demo has no better one.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from flows.outputs import Output
from server.demo import findings, triage, verdicts
from server.demo.talk import Step, Talk, read_talk
from server.demo.wire import ChatRequest, Function, Turn, call

LOOKS = 7
"""Turns that may look at something; the one after them is the result."""
RESULT_TOOL = "structured_output"
PROBE_TOOL = "podium_probe"

HELLO = (
    "I am podium's scripted demo model. I read files with the agent's tools and report what a "
    "handful of plain rules find in them. I understand nothing and this is not a review."
)


class Planner(Struct, frozen=True):
    """How one kind of output is made: the next look, or None; then what to say and the result."""

    look: Callable[[Talk, Step], Turn | None]
    conclude: Callable[[Talk, Step], tuple[str, Output]]


_PLANNERS = {
    "findings": Planner(findings.look, findings.conclude),
    "verdicts": Planner(verdicts.look, verdicts.conclude),
    "triage": Planner(triage.look, triage.conclude),
}


def next_turn(request: ChatRequest) -> Turn:
    """Answer `request`. The same request always gets the same answer."""
    talk = read_talk(request.messages)
    if (probe := request.tool(PROBE_TOOL)) is not None:
        return _probe(probe, talk)
    planner = _PLANNERS.get(talk.step.output) if talk.step else None
    if planner is None or talk.step is None:
        return Turn(HELLO)
    look = planner.look(talk, talk.step) if request.turn < LOOKS else None
    if look is not None and all(request.tool(made.name) for made in look.calls):
        return look
    return _conclude(request, talk, planner.conclude(talk, talk.step))


def _conclude(request: ChatRequest, talk: Talk, conclusion: tuple[str, Output]) -> Turn:
    text, output = conclusion
    if talk.calls(RESULT_TOOL):
        return Turn("My result was refused, and a script has no other one.")
    if request.tool(RESULT_TOOL) is None:
        return Turn(f"{text}\n{msgspec.json.encode(output).decode()}")
    return Turn(text, (call(RESULT_TOOL, output),))


def _probe(tool: Function, talk: Talk) -> Turn:
    marker = talk.marker or "none"
    if talk.calls(PROBE_TOOL):
        return Turn(f"The probe was answered with marker {marker}.")
    schema = tool.parameters or {}
    return Turn("Probing.", (call(PROBE_TOOL, _sample(schema, schema, marker)),))


def _sample(schema: dict[str, Any], root: dict[str, Any], marker: str) -> Any:
    """The smallest value that fits a plain JSON schema; every free text is `marker`."""
    if "$ref" in schema:
        return _sample(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root, marker)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    return _sample_of_type(schema, root, marker)


def _sample_of_type(schema: dict[str, Any], root: dict[str, Any], marker: str) -> Any:
    match schema.get("type", "object"):
        case "object":
            fields = schema.get("properties", {})
            return {name: _sample(fields[name], root, marker) for name in fields}
        case "array":
            least = schema.get("minItems", 0)
            return [_sample(schema.get("items", {}), root, marker) for _ in range(least)]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case _:
            return marker
