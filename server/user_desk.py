"""Where `podium user` is done: at the server that runs, or in the store while none does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import quote

import msgspec

from protocol.users import (
    Admitted,
    NewToken,
    NewUser,
    ProjectChange,
    UserInfo,
    UserKind,
    UserList,
)
from server.app import opened_accounts
from server.cli import Fault
from server.client import Client
from server.http.users import login_url
from server.local import running_server
from server.ports import StoreError
from server.running import find_server
from server.settings import Settings
from server.users.accounts import Accounts
from server.users.audit import OK, Audit, Deed, Entry
from server.users.directory import LOCAL_USER


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

    Raises Fault.
    """
    if url is not None or await running_server(settings.directory) is not None:
        async with await find_server(settings, url) as client:
            yield RemoteDesk(client)
        return
    try:
        async with opened_accounts(settings) as (accounts, audit):
            yield LocalDesk(accounts, audit, settings)
    except StoreError as error:
        raise Fault(str(error)) from error


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
        admitted = await self._accounts.add(new)
        self._tell(Deed.USER_ADDED, new.name, admitted.token_id)
        return self._with_link(admitted)

    async def new_token(self, name: str, wanted: NewToken) -> Admitted:
        admitted = await self._accounts.new_token(name, wanted)
        self._tell(Deed.TOKEN_ADDED, name, admitted.token_id)
        return self._with_link(admitted)

    async def revoke(self, name: str) -> UserInfo:
        info = await self._accounts.revoke(name)
        self._tell(Deed.USER_REVOKED, name)
        return info

    async def revoke_token(self, name: str, token_id: str) -> UserInfo:
        info = await self._accounts.revoke_token(name, token_id)
        self._tell(Deed.TOKEN_REVOKED, name, token_id)
        return info

    async def change_projects(self, name: str, change: ProjectChange) -> UserInfo:
        info = await self._accounts.change_projects(name, change)
        self._tell(Deed.PROJECTS_CHANGED, name)
        return info

    def _tell(self, deed: Deed, name: str, token_id: str = "") -> None:
        self._audit.tell(
            Entry(
                what=deed,
                who=LOCAL_USER,
                outcome=OK,
                way="command_line",
                user=name,
                token_id=token_id,
            )
        )

    def _with_link(self, admitted: Admitted) -> Admitted:
        """Port 0 is another one at each start, and a service has no browser."""
        settings = self._settings
        base = settings.public_url or (settings.port and f"http://{_host(settings)}")
        if not base or admitted.user.kind is UserKind.SERVICE:
            return admitted
        link = login_url(base, admitted.token)
        return msgspec.structs.replace(admitted, login_url=link)


def _host(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.port}"


def _path(name: str) -> str:
    return f"/api/users/{quote(name, safe='')}"
