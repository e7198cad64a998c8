"""The port to who may come in. Whoever holds it has the only copy that counts."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from protocol.ids import ProjectId, UserId
from protocol.resources import Project
from protocol.users import UserKind
from server.ports.store import StoreError


class UserRecord(Struct, frozen=True, kw_only=True):
    id: UserId
    kind: UserKind
    created_at: str
    revoked_at: str | None
    projects: frozenset[ProjectId]


class TokenRecord(Struct, frozen=True, kw_only=True):
    """A token without the token: `digest` is its SHA-256. Times are RFC 3339."""

    id: str
    user_id: UserId
    digest: bytes
    label: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None = None


class People(Struct, frozen=True, kw_only=True):
    """All of it, as it was at one moment."""

    users: Sequence[UserRecord]
    tokens: Sequence[TokenRecord]
    ended_sessions: Mapping[str, str]
    """When each would have expired, by its id."""


class NameTaken(StoreError):
    """There is a user of this name, in whatever case, or was one."""


class UserStore(Protocol):
    """Users, tokens and memberships. Every mutator is one transaction, durable when it returns."""

    async def people(self) -> People: ...

    async def add_user(
        self, user_id: UserId, kind: UserKind, projects: Sequence[ProjectId], token: TokenRecord
    ) -> None:
        """Raises NameTaken."""
        ...

    async def readmit_user(
        self, user_id: UserId, projects: Sequence[ProjectId], token: TokenRecord
    ) -> None:
        """Let a revoked user in again, as a member of these projects; no old token comes back."""
        ...

    async def revoke_user(self, user_id: UserId) -> None:
        """Revoke a user with every token, and end every membership."""
        ...

    async def add_token(self, token: TokenRecord) -> None: ...

    async def revoke_token(self, token_id: str) -> None: ...

    async def change_memberships(
        self, user_id: UserId, *, add: Sequence[ProjectId], remove: Sequence[ProjectId]
    ) -> None: ...

    async def end_session(self, session_id: str, *, expires_at: str) -> None:
        """Remember that a session was signed out, for as long as its cookie would hold."""
        ...

    async def all_projects(self) -> list[Project]: ...
