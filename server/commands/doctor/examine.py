"""`podium doctor`: what works, what is missing, and the command that mends it."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

from rich.console import Console

from flows import registry
from protocol.resources import Level
from server.agent import agent_of
from server.agents import installation
from server.agents.containment import ladder
from server.agents.containment.cage import SHIPPED, Found
from server.agents.installation import find_node
from server.agents.qwen_runner import QwenRunner
from server.commands.doctor import settings as of_settings
from server.commands.doctor.address import public_address
from server.commands.doctor.diagnosis import Diagnosis
from server.commands.doctor.users import users
from server.commands.shared import UNAVAILABLE
from server.commands.terminal import clean_line
from server.endpoints import configured, describe, models_of, place, roles_of, uses
from server.local import running_server
from server.memory import available_memory
from server.ports import AgentUnavailable
from server.runs.models import Model, Models
from server.settings import Settings, SettingsError, default_file
from server.settings.guards_of_models import unknown_roles
from server.world import SystemClock

MIN_PYTHON = (3, 11)
ENFORCED = {
    Level.FILESYSTEM: "agents see the copy under review and their own program, read-only",
    Level.NETWORK: "agents reach podium's relay to the model, and no other address",
    Level.PROCESSES: "agents see no other process, and none of theirs outlives them",
}
"""What a level of the containment means; each is tried on this machine before it is told."""


async def examine(console: Console, settings: Settings) -> int:
    """Print every diagnosis; 0 when an agent can start, else 4."""
    agent = agent_of(settings, clock=SystemClock())
    well = True
    for check in OF_THE_MACHINE:
        well &= show(console, await check())
    for diagnosis in await asyncio.to_thread(of_settings.read, default_file(), os.environ):
        well &= show(console, diagnosis)
    well &= show(console, await _data(settings))
    well &= show(console, await _server(settings))
    for diagnosis in (
        *await public_address(settings),
        *await users(settings),
        *await _containment(settings),
    ):
        well &= show(console, diagnosis)
    async for diagnosis in tried_models(agent, settings):
        well &= show(console, diagnosis)
    return 0 if well else UNAVAILABLE


async def examine_without(console: Console, error: SettingsError) -> None:
    """The same as far as it goes without settings, and why there are none."""
    for check in OF_THE_MACHINE:
        show(console, await check())
    for diagnosis in of_settings.refused(error, os.environ):
        show(console, diagnosis)


def show(console: Console, diagnosis: Diagnosis) -> bool:
    """Print a diagnosis; False when it keeps podium from working."""
    mark = "✓" if diagnosis.well else "✗" if diagnosis.required else "–"
    lines = [f"{mark} {diagnosis.name}: {diagnosis.says}"]
    if diagnosis.hint and not diagnosis.well:
        lines.append(f"    → {diagnosis.hint}")
    for line in lines:
        # An endpoint chooses the names of its models.
        console.print(clean_line(line), markup=False, highlight=False, soft_wrap=True)
    return diagnosis.well or not diagnosis.required


async def _python() -> Diagnosis:
    version = ".".join(map(str, sys.version_info[:3]))
    return Diagnosis("Python", sys.version_info >= MIN_PYTHON, version)


async def _git() -> Diagnosis:
    path = shutil.which("git")
    return Diagnosis("git", path is not None, path or "missing", "install git")


async def _node() -> Diagnosis:
    try:
        return Diagnosis("Node", True, str((await asyncio.to_thread(find_node)).program))
    except AgentUnavailable as error:
        return Diagnosis("Node", False, error.message, error.hint)


async def _qwen() -> Diagnosis:
    try:
        return Diagnosis("qwen", True, (await asyncio.to_thread(installation.find)).version)
    except AgentUnavailable as error:
        return Diagnosis("qwen", False, error.message, error.hint)


OF_THE_MACHINE: tuple[Callable[[], Awaitable[Diagnosis]], ...] = (_python, _git, _node, _qwen)
"""What needs no settings."""


async def _containment(settings: Settings) -> list[Diagnosis]:
    """Each level, tried with a real agent's flags."""
    try:
        node = (await asyncio.to_thread(find_node)).program
    except AgentUnavailable:
        says = "cannot be tried without Node"
        return [Diagnosis("contained", False, says, required=settings.contained_required)]
    return contained(await ladder.examine(node, SHIPPED), settings)


def contained(found: Found, settings: Settings) -> list[Diagnosis]:
    """A line for each level: what it keeps an agent from, or why it is not there."""
    off = settings.containment == "off"
    missing = [level for level in Level if level not in found.levels]
    lines: list[Diagnosis] = []
    for level in Level:
        there = level not in missing
        # What is missing is explained once, at the first level that is.
        first = level in missing[:1]
        says = ENFORCED[level] if there else f"not here: {found.reason}"
        if there and off:
            says = 'possible here, but `containment = "off"` in the settings'
        required = settings.contained_required
        hint = found.hint if first else None
        well = there and not off
        lines.append(Diagnosis(f"contained: {level}", well, says, hint, required=required))
    return lines


async def _data(settings: Settings) -> Diagnosis:
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
    return Diagnosis("data directory", problem is None, says, "choose another with --data")


async def _server(settings: Settings) -> Diagnosis:
    place = await running_server(settings.directory)
    says = f"runs at {place.url}" if place else "none runs; `podium run` starts one"
    if place and place.page not in ("", place.url):
        says += f", and for browsers at {place.page}/"
    return Diagnosis("server", place is not None, says, required=False)


async def tried_models(agent: QwenRunner, settings: Settings) -> AsyncIterator[Diagnosis]:
    """Every model of the settings, tried as an agent would use it, and the roles that use one."""
    if not settings.endpoints:
        yield Diagnosis("endpoint", False, f"none in {default_file()}", "podium setup")
    memory = await asyncio.to_thread(available_memory)
    models = models_of(settings, agent, memory=memory)
    for model in configured(settings):
        yield await _model(models, model, settings)
    catalogue = await asyncio.to_thread(registry.load)
    for fault in unknown_roles(settings, roles_of(catalogue)):
        yield Diagnosis("roles", False, str(fault))


async def _model(models: Models, model: Model, settings: Settings) -> Diagnosis:
    """One model; without it some launch cannot run when it is the default or a role's."""
    used = uses(settings, model.name)
    name = f"model {model.name}" + (f" ({', '.join(used)})" if used else "")
    try:
        return Diagnosis(name, True, describe(await models.ready(model)))
    except AgentUnavailable as error:
        says = f"{place(model)}: {error.message}"
        return Diagnosis(name, False, says, error.hint, required=bool(used))
