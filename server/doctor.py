"""`podium doctor`: what works, what is missing, and the command that mends it."""

import asyncio
import shutil
import sys
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from rich.console import Console

from protocol.resources import Level
from server.agents import containment
from server.agents.cage import SHIPPED, Found
from server.agents.installation import find_node
from server.agents.qwen_runner import QwenRunner
from server.local import running_server
from server.ports import AgentUnavailable, ModelEndpoint
from server.settings import LOOPBACK, Settings, default_file
from server.world import SystemClock

UNAVAILABLE = 4
MIN_PYTHON = (3, 11)
ENFORCED = {
    Level.FILESYSTEM: "agents see the copy under review and their own program, read-only",
    Level.NETWORK: "agents reach podium's relay to the model, and no other address",
    Level.PROCESSES: "agents see no other process, and none of theirs outlives them",
}
"""What a level of the containment means; each is tried on this machine before it is told."""


class Finding(NamedTuple):
    """One line of the examination. Without `required` a ✗ does not stop podium from working."""

    name: str
    well: bool
    says: str
    hint: str | None = None
    required: bool = True


async def examine(console: Console, settings: Settings) -> int:
    """Print every finding; 0 when an agent can start, else 4."""
    agent = QwenRunner(settings.directory, clock=SystemClock())
    checks: list[Callable[[], Awaitable[Finding | list[Finding]]]] = [
        _python,
        _git,
        _node,
        lambda: _qwen(agent),
        lambda: _containment(settings),
        lambda: _data(settings),
        lambda: _server(settings),
        lambda: _endpoint(agent, settings),
    ]
    well = True
    for check in checks:
        found = await check()
        for finding in found if isinstance(found, list) else [found]:
            _print(console, finding)
            well &= finding.well or not finding.required
    return 0 if well else UNAVAILABLE


def _print(console: Console, finding: Finding) -> None:
    mark = "✓" if finding.well else "✗" if finding.required else "–"
    console.print(f"{mark} {finding.name}: {finding.says}", markup=False, highlight=False)
    if finding.hint and not finding.well:
        console.print(f"    → {finding.hint}", markup=False, highlight=False)


async def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", sys.version_info >= MIN_PYTHON, version)


async def _git() -> Finding:
    path = shutil.which("git")
    return Finding("git", path is not None, path or "missing", "install git")


async def _node() -> Finding:
    try:
        return Finding("Node", True, str((await asyncio.to_thread(find_node)).program))
    except AgentUnavailable as error:
        return Finding("Node", False, error.message, error.hint)


async def _qwen(agent: QwenRunner) -> Finding:
    try:
        return Finding("qwen", True, await agent.check())
    except AgentUnavailable as error:
        return Finding("qwen", False, error.message, error.hint)


async def _containment(settings: Settings) -> list[Finding]:
    """Each level, tried with a real agent's flags."""
    try:
        node = (await asyncio.to_thread(find_node)).program
    except AgentUnavailable:
        says = "cannot be tried without Node"
        return [Finding("contained", False, says, required=_must_be_contained(settings))]
    return contained(await containment.examine(node, SHIPPED), settings)


def contained(found: Found, settings: Settings) -> list[Finding]:
    """A line for each level: what it keeps an agent from, or why it is not there."""
    lines: list[Finding] = []
    for level in Level:
        there = level in found.levels
        # What is missing is explained once, at the first level that is.
        first = not there and not any(not line.well for line in lines)
        says = ENFORCED[level] if there else f"not here: {found.reason}"
        if there and settings.containment == "off":
            says += '; possible here, but `containment = "off"` in the settings'
        required = _must_be_contained(settings)
        hint = found.hint if first else None
        lines.append(Finding(f"contained: {level}", there, says, hint, required=required))
    return lines


def _must_be_contained(settings: Settings) -> bool:
    return settings.containment == "required" or settings.host not in LOOPBACK


async def _data(settings: Settings) -> Finding:
    def writable() -> str | None:
        probe = settings.directory / ".writable"
        try:
            settings.directory.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            return str(error)
        return None

    problem = await asyncio.to_thread(writable)
    says = problem or str(settings.directory)
    return Finding("data directory", problem is None, says, "choose another with --data")


async def _server(settings: Settings) -> Finding:
    place = await running_server(settings.directory)
    says = f"runs at {place.url}" if place else "none runs; `podium run` starts one"
    return Finding("server", place is not None, says, required=False)


async def _endpoint(agent: QwenRunner, settings: Settings) -> Finding:
    """The endpoint, tried as an agent would use it."""
    chosen = settings.endpoint
    if chosen is None:
        return Finding("endpoint", False, f"none in {default_file()}", "podium setup")
    endpoint = ModelEndpoint(
        name="default",
        base_url=chosen.base_url.rstrip("/"),
        api_key=chosen.api_key,
        model=chosen.model,
    )
    try:
        probe = await agent.probe(endpoint)
    except AgentUnavailable as error:
        return Finding("endpoint", False, error.message, error.hint)
    demo = ", the scripted demo model: not a review" if probe.public.demo else ""
    window = f", {probe.context_tokens} tokens" if probe.context_tokens else ""
    says = f"{probe.public.model} at {probe.public.host}, {probe.slots} slots{window}{demo}"
    return Finding("endpoint", True, says)
