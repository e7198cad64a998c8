"""Who follows a server that ends with its command: at its address or not at all."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from server.client import Client, Unreachable
from server.commands.running import Used
from server.commands.succession import Succession, succeeding
from server.local import StartFailed, own_server, running_server
from tests.integration.servers import Server

pytestmark = pytest.mark.timeout(120)


@asynccontextmanager
async def overtaken(place: Path, *, same_address: bool) -> AsyncIterator[tuple[Succession, Server]]:
    """Somebody serves DIR between the end of the last server and the start of the next one."""
    data, project = place / "data", place / "project"
    project.mkdir()
    async with AsyncExitStack() as stack, AsyncExitStack() as ending:
        theirs = await ending.enter_async_context(own_server(data, os.environ))
        port = urlsplit(theirs.place.url).port or 0 if same_address else 0
        other = Server(data, project, {}, port=port)

        async def environment() -> Mapping[str, str]:
            await other.start()
            return os.environ

        succession = await stack.enter_async_context(succeeding(data, theirs.place, environment))
        await ending.aclose()
        try:
            yield succession, other
        finally:
            # First: it would see the end, and start the other one again.
            await succession.close()
            await other.stop()


async def test_another_address_is_the_end(tmp_path: Path) -> None:
    async with overtaken(tmp_path, same_address=False) as (succession, other):
        with pytest.raises(StartFailed, match="another one serves"):
            await succession.over
        assert await running_server(tmp_path / "data") == other.place, "theirs goes on"


async def test_at_the_same_address_theirs_is_used(tmp_path: Path) -> None:
    async with overtaken(tmp_path, same_address=True) as (succession, other):
        before = succession.place.pid
        async with asyncio.timeout(60):
            while succession.place.pid == before and not succession.over.done():
                await asyncio.sleep(0.02)
        assert not succession.over.done()
        assert succession.place == other.place
        assert not succession.own


@pytest.mark.parametrize("state", ["none", "over", "goes on"])
async def test_what_is_asked_while_a_server_changes_is_asked_again(
    tmp_path: Path, state: str
) -> None:
    """Only then: nobody waits where nobody comes."""
    tries = 0

    async def asked() -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unreachable("nobody there")
        return "there"

    async def environment() -> Mapping[str, str]:
        raise StartFailed("never")

    data = tmp_path / "data"
    async with (
        own_server(data, os.environ) as theirs,
        succeeding(data, theirs.place, environment) as succession,
    ):
        if state == "over":
            await succession.close()
        client = Client(theirs.place.url, "t")
        used = Used(client, theirs.place, succession=None if state == "none" else succession)
        if state == "goes on":
            assert await used.asked(asked) == "there"
        else:
            with pytest.raises(Unreachable):
                await used.asked(asked)
    assert tries == (3 if state == "goes on" else 1)
