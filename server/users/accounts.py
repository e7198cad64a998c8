"""Changes of users, tokens and memberships: durable first, then known, then felt at once."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import ProjectId, UserId
from protocol.resources import Project
from protocol.users import (
    Admitted,
    NewToken,
    NewUser,
    ProjectChange,
    TokenInfo,
    UserInfo,
    UserKind,
)
from server.ports import Clock, Store, TokenRecord, UserRecord, UserStore
from server.settings import Settings, default_file, guards
from server.shielding import to_the_end
from server.users.directory import Directory
from server.users.tokens import digest_of, new_id, new_token
from server.world import rfc3339

T = TypeVar("T")

SHARED = {"project_roots": 'project_roots = ["/srv/code"]', "containment": 'containment = "auto"'}
"""The lines of the settings file that several users need, by key."""
MAX_TOKENS = 100
"""Of one user, at a time."""


class Ground(NamedTuple):
    """What accounts stand on. `check` says of a path whether it may be a project, and resolves
    it."""

    users: UserStore
    store: Store
    settings: Settings
    clock: Clock
    check: Callable[[Path], Awaitable[Path]]


class Accounts:
    """The operator's desk. `directory` is what counts now; `changed` is called with each new one,
    before the call that made it returns."""

    def __init__(self, ground: Ground, directory: Directory, operator_token: str) -> None:
        self._ground = ground
        self._users = ground.users
        self._operator_token = operator_token
        self._one_at_a_time = asyncio.Lock()
        self.directory = directory
        self.changed: list[Callable[[Directory], None]] = []
        self.withdrawn: Callable[[], Awaitable[None]] | None = None
        """Called after somebody has lost access to something."""

    @classmethod
    async def opened(cls, ground: Ground, operator_token: str) -> Self:
        directory = Directory(await ground.users.people(), operator_token)
        return cls(ground, directory, operator_token)

    async def all(self) -> list[UserInfo]:
        """Every user, the revoked ones too."""
        projects = {project.id: project for project in await self._users.all_projects()}
        return [self._info(user, projects) for user in self.directory.people.users]

    async def add(self, new: NewUser) -> Admitted:
        """Let somebody in, with a first token. Raises ProtocolError and writes nothing when the
        settings are for a single user, a path is no project, or the name is taken."""
        if not self.directory.others:
            _require_shareable(self._ground.settings)
        if new.service and new.projects:
            raise _bad("a service account has no projects: it speaks for users", "projects")
        return await self._change(self._add(new))

    async def new_token(self, name: str, wanted: NewToken) -> Admitted:
        """A further token of a user. Raises ProtocolError."""
        return await self._change(self._new_token(name, wanted))

    async def revoke(self, name: str) -> UserInfo:
        """End a user, every token, and every visit. Again: changes nothing. Raises
        ProtocolError."""
        return await self._change(self._revoke(name), withdraws=True)

    async def revoke_token(self, name: str, token_id: str) -> UserInfo:
        """End one token and what it opened. Again: changes nothing. Raises ProtocolError."""
        return await self._change(self._revoke_token(name, token_id))

    async def change_projects(self, name: str, change: ProjectChange) -> UserInfo:
        """Make a user a member of projects, and of others no longer. Raises ProtocolError."""
        return await self._change(self._change_projects(name, change), withdraws=True)

    async def end_session(self, session_id: str, *, expires_at: str) -> None:
        """Sign a session out, wherever its cookie is."""
        await self._change(self._users.end_session(session_id, expires_at=expires_at))

    # --- one at a time, each to its end ---------------------------------------------------------

    async def _change(self, work: Coroutine[object, object, T], *, withdraws: bool = False) -> T:
        """A caller that leaves meanwhile must not keep a revocation from being felt."""
        return await to_the_end(self._do(work, withdraws=withdraws))

    async def _do(self, work: Coroutine[object, object, T], *, withdraws: bool) -> T:
        try:
            async with self._one_at_a_time:
                try:
                    return await work
                finally:
                    # What was written counts, also when its answer could not be read.
                    await self._reload()
        finally:
            if withdraws and self.withdrawn is not None:
                await self.withdrawn()

    async def _reload(self) -> None:
        self.directory = Directory(await self._users.people(), self._operator_token)
        for tell in self.changed:
            tell(self.directory)

    async def _add(self, new: NewUser) -> Admitted:
        kind = UserKind.SERVICE if new.service else UserKind.USER
        earlier = self.directory.user(new.name)
        back = earlier is not None and earlier.revoked_at is not None and new.again
        if earlier is not None and back:
            _check_kind(earlier, kind)
        elif self.directory.has_name(new.name):
            raise _taken(new.name, earlier)
        projects = [project.id for project in await self._registered(new.projects)]
        user_id = UserId(new.name)
        token, record = self._made(user_id, new)
        if back:
            await self._users.readmit_user(user_id, projects, record)
        else:
            await self._users.add_user(user_id, kind, projects, record)
        return await self._admitted(user_id, record, token)

    async def _new_token(self, name: str, wanted: NewToken) -> Admitted:
        user = self._changeable(name)
        if user.revoked_at is not None:
            raise _revoked(name)
        if len([it for it in self.directory.tokens_of(user.id) if not it.revoked_at]) >= MAX_TOKENS:
            raise ProtocolError(
                ErrorCode.BUSY,
                f"{name} has {MAX_TOKENS} tokens",
                hint=f"revoke some: `podium user list`, `podium user revoke {name} --token ID`",
            )
        token, record = self._made(user.id, wanted)
        await self._users.add_token(record)
        return await self._admitted(user.id, record, token)

    async def _revoke(self, name: str) -> UserInfo:
        user = self._changeable(name)
        await self._users.revoke_user(user.id)
        return await self._now(user.id)

    async def _revoke_token(self, name: str, token_id: str) -> UserInfo:
        user = self._changeable(name)
        if token_id not in {token.id for token in self.directory.tokens_of(user.id)}:
            raise ProtocolError(
                ErrorCode.NOT_FOUND,
                f"{name} has no token {token_id[:40]}",
                field="token_id",
                hint="`podium user list` shows the ids",
            )
        await self._users.revoke_token(token_id)
        return await self._now(user.id)

    async def _change_projects(self, name: str, change: ProjectChange) -> UserInfo:
        user = self._changeable(name)
        if user.revoked_at is not None:
            raise _revoked(name)
        if user.kind is UserKind.SERVICE:
            raise _bad("a service account has no projects: it speaks for users", "add")
        add = [project.id for project in await self._registered(change.add)]
        remove = [await self._known(path) for path in change.remove]
        await self._users.change_memberships(user.id, add=add, remove=remove)
        return await self._now(user.id)

    # --- parts ----------------------------------------------------------------------------------

    def _changeable(self, name: str) -> UserRecord:
        user = self.directory.user(name)
        if user is None:
            raise ProtocolError(
                ErrorCode.NOT_FOUND,
                f"there is no user {name[:100]}",
                field="name",
                hint="`podium user list` shows them, `podium user add` makes one",
            )
        if user.kind is UserKind.OPERATOR:
            raise ProtocolError(
                ErrorCode.FORBIDDEN,
                f"{name} is the operator, who is not changed here",
                field="name",
                hint="for another token of the operator stop podium, remove DIR/token, start it",
            )
        return user

    async def _registered(self, paths: Sequence[str]) -> list[Project]:
        """The projects at these paths, which become projects where they are none."""
        known = {project.id: project for project in await self._users.all_projects()}
        found = [known.get(ProjectId(path)) for path in paths]
        checked = [
            await self._ground.check(Path(path))
            for path, project in zip(paths, found, strict=True)
            if project is None
        ]
        added = [await self._ground.store.add_project(it, it.name or str(it)) for it in checked]
        return [*(project for project in found if project is not None), *added]

    async def _known(self, path: str) -> ProjectId:
        """The project at a path, or of an id. The folder itself may be gone."""
        for project in await self._users.all_projects():
            if path in (project.id, project.path):
                return project.id
        resolved = await asyncio.to_thread(_resolved, path)
        for project in await self._users.all_projects():
            if project.path == resolved:
                return project.id
        raise ProtocolError(
            ErrorCode.NOT_FOUND,
            f"{path[:200]} is no project",
            field="remove",
            hint="`podium user list` shows the projects of each user",
        )

    def _made(self, user_id: UserId, wanted: NewToken) -> tuple[str, TokenRecord]:
        now = self._ground.clock.now()
        expires = None if wanted.days is None else rfc3339(now + timedelta(days=wanted.days))
        token = new_token()
        record = TokenRecord(
            id=new_id(),
            user_id=user_id,
            digest=digest_of(token),
            label=wanted.label,
            created_at=rfc3339(now),
            expires_at=expires,
        )
        return token, record

    async def _admitted(self, user_id: UserId, record: TokenRecord, token: str) -> Admitted:
        return Admitted(user=await self._now(user_id), token_id=record.id, token=token)

    async def _now(self, user_id: UserId) -> UserInfo:
        """A user as the store has it now."""
        directory = Directory(await self._users.people(), self._operator_token)
        projects = {project.id: project for project in await self._users.all_projects()}
        user = directory.user(user_id)
        assert user is not None
        return _info(user, directory.tokens_of(user_id), projects)

    def _info(self, user: UserRecord, projects: dict[ProjectId, Project]) -> UserInfo:
        return _info(user, self.directory.tokens_of(user.id), projects)


def _info(
    user: UserRecord, tokens: Sequence[TokenRecord], projects: dict[ProjectId, Project]
) -> UserInfo:
    return UserInfo(
        id=user.id,
        kind=user.kind,
        created_at=user.created_at,
        revoked_at=user.revoked_at,
        projects=[project for id, project in projects.items() if id in user.projects],
        tokens=[
            TokenInfo(
                id=token.id,
                label=token.label,
                created_at=token.created_at,
                expires_at=token.expires_at,
                revoked_at=token.revoked_at,
            )
            for token in tokens
        ],
    )


def _require_shareable(settings: Settings) -> None:
    faults = guards.faults_of_several(settings, "podium has several users")
    if faults:
        told = "; ".join(map(str, faults))
        lines = "; ".join(f"`{SHARED[key]}`" for _, key, _ in faults)
        raise ProtocolError(
            ErrorCode.FORBIDDEN,
            f"the settings are for a single user: {told}",
            field=faults[0].key,
            hint=f"write {lines} into {default_file()}, above its first [table], and start podium"
            " again",
        )


def _check_kind(earlier: UserRecord, kind: UserKind) -> None:
    if earlier.kind is not kind:
        raise _bad(f"{earlier.id} was a {earlier.kind} account", "service")


def _resolved(path: str) -> str | None:
    """None for what is no absolute path, or no path at all."""
    try:
        return str(Path(path).resolve()) if Path(path).is_absolute() else None
    except (OSError, ValueError, RuntimeError):
        return None


def _bad(message: str, field: str) -> ProtocolError:
    return ProtocolError(ErrorCode.BAD_ARGUMENTS, message, field=field)


def _revoked(name: str) -> ProtocolError:
    return ProtocolError(
        ErrorCode.BUSY,
        f"{name} is revoked",
        field="name",
        hint=f"`podium user add {name} --again` lets the same person in again",
    )


def _taken(name: str, earlier: UserRecord | None) -> ProtocolError:
    if earlier is None:
        message, hint = "a user of this name in other case exists", "choose another name"
    elif earlier.kind is UserKind.OPERATOR:
        message = f"{name} is the operator, who is there already"
        hint = "choose another name"
    elif earlier.revoked_at is None:
        message = f"{name} is a user already"
        hint = f"`podium user token {name}` makes another token, `podium user change` its projects"
    else:
        message = f"{name} was a user and is revoked; the name brings the earlier runs with it"
        hint = "for the same person add --again; for another one choose another name"
    return ProtocolError(ErrorCode.KEY_CONFLICT, message, field="name", hint=hint)
