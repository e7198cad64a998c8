"""The agent that the settings ask for, with every guard that they name."""

from server.agents.containment.limits import Limits
from server.agents.qwen_runner import Guards, QwenRunner
from server.ports import Clock
from server.settings import Settings


def agent_of(settings: Settings, *, clock: Clock) -> QwenRunner:
    """The pinned qwen; nothing is looked for before it is needed."""
    return QwenRunner(
        settings.directory,
        clock=clock,
        guards=guards_of(settings),
        probe_seconds=settings.probe_seconds,
        keep_attempts=settings.keep_attempts,
    )


def guards_of(settings: Settings) -> Guards:
    limits = Limits(
        memory_mib=settings.agent_memory_mib,
        processes=settings.agent_processes,
        cpu_seconds=settings.agent_cpu_seconds,
    )
    return Guards(
        limits=limits,
        contained=settings.containment != "off",
        required=settings.contained_required,
    )
