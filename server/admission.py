"""The users' part of the composition: the operator's token, the accounts while no server runs, and
what a server must have before it takes several users."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.ports import AgentRunner
from server.settings import Settings, SettingsError
from server.settings.faults import Fault, listed
from server.settings.guards import faults_of_several
from server.stores.sqlite import SqliteStore
from server.trees import trees_of
from server.users.accounts import Accounts, Ground
from server.users.audit import Audit
from server.users.directory import Directory
from server.users.tokens import kept_secret
from server.world import SystemClock, boot_id


def local_token(settings: Settings) -> str:
    """The operator's token: of the settings, else made once and kept in DIR/token. Blocks."""
    return settings.token or kept_secret(settings.directory / "token")


@asynccontextmanager
async def opened_accounts(settings: Settings) -> AsyncIterator[tuple[Accounts, Audit]]:
    """The accounts of DIR and its audit log, while no server runs on it. Raises StoreError when one
    does."""
    clock = SystemClock()
    await asyncio.to_thread(settings.directory.mkdir, 0o700, parents=True, exist_ok=True)
    boot = await asyncio.to_thread(boot_id)
    trees = await asyncio.to_thread(trees_of, settings)
    token = await asyncio.to_thread(local_token, settings)
    store = SqliteStore(
        settings.directory, clock=clock, committed=lambda entries: None, boot_id=boot
    )
    async with store:
        ground = Ground(store, store, settings, clock, trees.check)
        trail = Audit(settings.directory, clock=clock)
        try:
            yield await Accounts.opened(ground, token), trail
        finally:
            await trail.stop()


def require_token_of_nobody(settings: Settings, directory: Directory) -> None:
    """PODIUM_TOKEN is what the command line says at a server, too: where it holds a user's token,
    a server that is started there must not take it for the operator's. Raises SettingsError."""
    owner = directory.given_to(settings.token)
    if owner is not None:
        says = (
            f"is a token of the user {owner}, who would become the operator; leave it out, and"
            " podium makes one"
        )
        raise SettingsError([Fault(settings.source("token"), "token", says)])


def require_settings_for_all(settings: Settings, accounts: Accounts, agent: AgentRunner) -> None:
    """Several users need what a single one does without, now and when the second one comes. Raises
    SettingsError."""

    def several(directory: Directory) -> None:
        if directory.others and settings.containment == "auto":
            agent.require_containment()

    others = accounts.directory.others
    if others:
        why = f"podium has several users ({listed(others, most=5)})"
        faults = faults_of_several(settings, why)
        if faults:
            raise SettingsError(faults)
    several(accounts.directory)
    accounts.changed.append(several)
