"""Who may come in, as the store said at one moment: decided without waiting and without a disk."""

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from protocol.errors import CloseCode
from protocol.ids import ProjectId, UserId
from protocol.users import UserKind
from server.ports import People, TokenRecord, UserRecord
from server.users.tokens import digest_of

LOCAL_USER = UserId("local")


class Way(StrEnum):
    """How somebody signed in."""

    BEARER = "bearer"
    COOKIE = "cookie"
    TICKET = "ticket"
    PROXY = "proxy"


class Guest(Struct, frozen=True, kw_only=True):
    """Somebody who is signed in, and by what: when any of that ends, so does the visit."""

    user: UserId
    kind: UserKind
    way: Way
    peer: str
    """The address that asked."""
    token: str | None = None
    """The id of the token, also of a session or a ticket that it opened."""
    session: str | None = None
    """The id of the session."""
    expires: float | None = None
    """When that ends by itself, in seconds of the wall clock."""


class Directory:
    """Never changes: a change of the store makes a new one."""

    def __init__(self, people: People, operator_token: str) -> None:
        """The operator's token is no row of the store: it is in the settings, or in DIR/token."""
        self.people = people
        self._users = {user.id: user for user in people.users}
        self._tokens = {token.id: token for token in people.tokens}
        own = _operator_token(operator_token, self._users[LOCAL_USER])
        self._tokens[own.id] = own
        self._by_digest = {token.digest: token for token in self._tokens.values()}

    def holder(self, token: str, *, now: float, peer: str) -> Guest | None:
        """Whoever holds this token, if it is good."""
        found = self._by_digest.get(digest_of(token))
        return None if found is None else self.bearer_of(found.id, now=now, peer=peer)

    def given_to(self, token: str) -> UserId | None:
        """The user whom this token was made for, whether it is still good or not."""
        digest = digest_of(token)
        given = (it.user_id for it in self.people.tokens if it.digest == digest)
        return next(given, None)

    def bearer_of(self, token_id: str, *, now: float, peer: str) -> Guest | None:
        """Whoever holds the token of this id, if it is good."""
        token = self._tokens.get(token_id)
        user = None if token is None else self.active(token.user_id)
        if token is None or user is None or not _good(token, now):
            return None
        return Guest(
            user=user.id,
            kind=user.kind,
            way=Way.BEARER,
            peer=peer,
            token=token.id,
            expires=_seconds(token.expires_at),
        )

    def active(self, name: str) -> UserRecord | None:
        """The user of this name, who is not revoked."""
        user = self._users.get(UserId(name))
        return None if user is None or user.revoked_at is not None else user

    def ended(self, guest: Guest, *, now: float) -> CloseCode | None:
        """Why a visit is over, if it is: the user, the token or the session has gone or expired."""
        token = None if guest.token is None else self._tokens.get(guest.token)
        over = (
            self.active(guest.user) is None
            or (guest.token is not None and not (token and self._stands(token, now)))
            or guest.session in self.people.ended_sessions
            or (guest.expires is not None and guest.expires <= now)
        )
        return CloseCode.UNAUTHENTICATED if over else None

    def projects(self, user: UserId) -> frozenset[ProjectId]:
        """Of a member; the operator needs no membership."""
        found = self.active(user)
        return frozenset() if found is None else found.projects

    @property
    def others(self) -> list[UserId]:
        """Everyone but the operator who is not revoked."""
        return [user.id for user in self._active() if user.kind is not UserKind.OPERATOR]

    def user(self, name: str) -> UserRecord | None:
        """The user of this name, revoked or not."""
        return self._users.get(UserId(name))

    def has_name(self, name: str) -> bool:
        """Whether there was ever a user of this name, in whatever case."""
        return any(user.id.lower() == name.lower() for user in self._users.values())

    def tokens_of(self, user: UserId) -> list[TokenRecord]:
        """Those of the store; the operator's is not among them."""
        return [token for token in self.people.tokens if token.user_id == user]

    def _stands(self, token: TokenRecord, now: float) -> bool:
        return _good(token, now) and self.active(token.user_id) is not None

    def _active(self) -> Iterator[UserRecord]:
        return (user for user in self._users.values() if user.revoked_at is None)


def _good(token: TokenRecord, now: float) -> bool:
    expires = _seconds(token.expires_at)
    return token.revoked_at is None and (expires is None or expires > now)


def _operator_token(token: str, operator: UserRecord) -> TokenRecord:
    """Its id follows from it: with a new token the sessions of the old one are over."""
    digest = digest_of(token)
    return TokenRecord(
        id=f"operator-{digest.hex()[:16]}",
        user_id=operator.id,
        digest=digest,
        label="",
        created_at=operator.created_at,
        expires_at=None,
    )


def _seconds(at: str | None) -> float | None:
    return None if at is None else datetime.fromisoformat(at).timestamp()
