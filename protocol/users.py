"""Users, their tokens and sessions, as REST takes and shows them. No token is ever shown again."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from protocol.ids import UserId
from protocol.resources import Project

NAME = r"\A[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}\Z"
Name = Annotated[str, Meta(pattern=NAME)]
Label = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]{0,100}\Z")]
Days = Annotated[int, Meta(ge=1, le=3_650)]
Paths = Annotated[list[str], Meta(max_length=1_000)]


class UserKind(StrEnum):
    OPERATOR = "operator"
    """The local user: a member of every project, who alone changes users."""
    USER = "user"
    SERVICE = "service"
    """A chat back-end: it mints tickets on behalf of users, and may do nothing else."""


class TokenInfo(Struct, frozen=True, kw_only=True):
    id: str
    label: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None


class UserInfo(Struct, frozen=True, kw_only=True):
    id: UserId
    """The name."""
    kind: UserKind
    created_at: str
    revoked_at: str | None
    projects: list[Project]
    """Those that the user is a member of; the operator, who is of every one, has none here."""
    tokens: list[TokenInfo]


class UserList(Struct, frozen=True):
    """`GET /api/users`, the operator first."""

    users: list[UserInfo]


class NewToken(Struct, frozen=True, kw_only=True):
    """`POST /api/users/{name}/tokens`."""

    days: Days | None = None
    """How long it is good; left out: until it is revoked."""
    label: Label = ""
    """What it is for, as `laptop`."""


class NewUser(NewToken, frozen=True, kw_only=True):
    """`POST /api/users`: a user, and a first token."""

    name: Name
    service: bool = False
    projects: Paths = []
    """Absolute paths on the server; what is no project yet becomes one."""
    again: bool = False
    """Let a revoked user in again, who then has all earlier runs."""


class ProjectChange(Struct, frozen=True, kw_only=True):
    """`POST /api/users/{name}/projects`. Absolute paths on the server; or a project's id."""

    add: Paths = []
    remove: Paths = []


class Admitted(Struct, frozen=True, kw_only=True):
    """201: the one time that a token is shown."""

    user: UserInfo
    token_id: str
    token: str
    login_url: str | None = None
    """Signs a browser in; the token is in the fragment, which no server is sent."""

    def __repr__(self) -> str:
        return f"Admitted(user={self.user.id!r}, token_id={self.token_id!r})"


class SessionBody(Struct, frozen=True):
    """`POST /api/session`: the answer sets the cookie."""

    token: str

    def __repr__(self) -> str:
        return "SessionBody()"


class SessionOpened(Struct, frozen=True):
    user_id: UserId


class SessionInfo(Struct, frozen=True, kw_only=True):
    """`GET /api/session`: who is signed in."""

    user_id: UserId
    kind: UserKind
    way: str
    """How: `bearer`, `cookie` or `proxy`."""
    expires_at: str | None
    """When the session or the token ends by itself."""


class TicketBody(Struct, frozen=True):
    """`POST /api/ws-ticket`."""

    on_behalf_of: str | None = None
    """The user whose socket it opens; only for service tokens, which must name one."""


class Ticket(Struct, frozen=True):
    ticket: str
    """Good for one socket, said in its `hello`."""
    expires_in_seconds: float

    def __repr__(self) -> str:
        return "Ticket()"
