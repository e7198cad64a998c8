"""Where `podium user` is done: at the server that runs, or in the store while none does."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar
from urllib.parse import quote

import msgspec

from protocol.errors import ErrorCode, ProtocolError
from protocol.users import (
    Admitted,
    NewToken,
    NewUser,
    ProjectChange,
    UserInfo,
    UserKind,
    UserList,
)
from server.addresses import authority
from server.admission import opened_accounts
from server.client import Client
from server.commands.shared import CommandError, find_server
from server.http.users import login_url
from server.local import running_server
from server.ports import StoreError, StoreUnavailable
from server.settings import Settings
from server.users.accounts import Accounts
from server.users.audit import OK, Audit, Deed, Entry
from server.users.directory import LOCAL_USER

T = TypeVar("T")


class Desk(Protocol):
    """Every call raises ProtocolError when it is refused."""

    async def all(self) -> list[UserInfo]: ...

    async def add(self, new: NewUser) -> Admitted: ...

    async def new_token(self, name: str, wanted: NewToken) -> Admitted: ...

    async def revoke(self, name: str) -> UserInfo: ...

    async def revoke_token(self, name: str, token_id: str) -> UserInfo: ...

    async def change_projects(self, name: str, change: ProjectChange) -> UserInfo: ...


@asynccontextmanager
async def open_desk(settings: Settings, url: str | None) -> AsyncIterator[Desk]:
    """The desk of the given server, of the one that runs on DIR, or of the store of DIR.

    Raises CommandError.
    """
    if url is not None or await running_server(settings.directory) is not None:
        async with await find_server(settings, url) as client:
            yield RemoteDesk(client)
        return
    try:
        async with opened_accounts(settings) as (accounts, audit):
            yield LocalDesk(accounts, audit, settings)
    except StoreError as error:
        raise CommandError(str(error)) from error


class RemoteDesk:
    """A running server changes its users itself, and open sockets feel it at once."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def all(self) -> list[UserInfo]:
        return msgspec.convert(await self._client.get("/api/users"), UserList).users

    async def add(self, new: NewUser) -> Admitted:
        return msgspec.convert(await self._client.post("/api/users", new), Admitted)

    async def new_token(self, name: str, wanted: NewToken) -> Admitted:
        answer = await self._client.post(f"{_path(name)}/tokens", wanted)
        return msgspec.convert(answer, Admitted)

    async def revoke(self, name: str) -> UserInfo:
        return msgspec.convert(await self._client.delete(_path(name)), UserInfo)

    async def revoke_token(self, name: str, token_id: str) -> UserInfo:
        path = f"{_path(name)}/tokens/{quote(token_id, safe='')}"
        return msgspec.convert(await self._client.delete(path), UserInfo)

    async def change_projects(self, name: str, change: ProjectChange) -> UserInfo:
        answer = await self._client.post(f"{_path(name)}/projects", change)
        return msgspec.convert(answer, UserInfo)


class LocalDesk:
    """The accounts themselves, with what the server adds to them: the link, and the audit log."""

    def __init__(self, accounts: Accounts, audit: Audit, settings: Settings) -> None:
        self._accounts = accounts
        self._audit = audit
        self._settings = settings

    async def all(self) -> list[UserInfo]:
        return await self._accounts.all()

    async def add(self, new: NewUser) -> Admitted:
        admitted = await self._told(Deed.USER_ADDED, new.name, self._accounts.add(new))
        return self._with_link(admitted)

    async def new_token(self, name: str, wanted: NewToken) -> Admitted:
        work = self._accounts.new_token(name, wanted)
        return self._with_link(await self._told(Deed.TOKEN_ADDED, name, work))

    async def revoke(self, name: str) -> UserInfo:
        return await self._told(Deed.USER_REVOKED, name, self._accounts.revoke(name))

    async def revoke_token(self, name: str, token_id: str) -> UserInfo:
        work = self._accounts.revoke_token(name, token_id)
        return await self._told(Deed.TOKEN_REVOKED, name, work, token_id=token_id)

    async def change_projects(self, name: str, change: ProjectChange) -> UserInfo:
        work = self._accounts.change_projects(name, change)
        return await self._told(Deed.PROJECTS_CHANGED, name, work)

    async def _told(self, deed: Deed, name: str, work: Awaitable[T], *, token_id: str = "") -> T:
        """What the work makes; written down as the server does it, what is refused, too."""
        try:
            done = await work
        except ProtocolError as error:
            self._tell(deed, name, error.code)
            raise
        except StoreUnavailable:
            self._tell(deed, name, ErrorCode.STORE_UNAVAILABLE)
            raise
        self._tell(deed, name, OK, done.token_id if isinstance(done, Admitted) else token_id)
        return done

    def _tell(self, deed: Deed, name: str, outcome: str, token_id: str = "") -> None:
        self._audit.tell(
            Entry(
                what=deed,
                who=LOCAL_USER,
                outcome=outcome,
                way="command_line",
                user=name[:100],
                token_id=token_id,
            )
        )

    def _with_link(self, admitted: Admitted) -> Admitted:
        """Port 0 is another one at each start, and a service has no browser."""
        settings = self._settings
        own = f"http://{authority(settings.host, settings.port)}" if settings.port else ""
        base = settings.public_url or own
        if not base or admitted.user.kind is UserKind.SERVICE:
            return admitted
        link = login_url(base, admitted.token)
        return msgspec.structs.replace(admitted, login_url=link)


def _path(name: str) -> str:
    return f"/api/users/{quote(name, safe='')}"
