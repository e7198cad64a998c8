"""Users, tokens and memberships in SQLite: `ports.UserStore`."""

import sqlite3
from collections.abc import Iterable, Sequence

import aiosqlite

from protocol.ids import ProjectId, UserId
from protocol.resources import Project
from protocol.users import UserKind
from server.ports import NameTaken, People, TokenRecord, UserRecord
from server.stores import rows
from server.stores.reads import Reads
from server.stores.writer import Tick, Writer


class UserRows(Reads):
    _writer: Writer

    async def people(self) -> People:
        members: dict[str, set[ProjectId]] = {}
        for row in await self.all_rows("SELECT * FROM memberships"):
            members.setdefault(row["user_id"], set()).add(ProjectId(row["project_id"]))
        users = await self.all_rows("SELECT * FROM users ORDER BY kind <> 'operator', id")
        tokens = await self.all_rows("SELECT * FROM user_tokens ORDER BY created_at, id")
        ended = await self.all_rows("SELECT id, expires_at FROM ended_sessions")
        return People(
            users=[_user(row, members.get(row["id"], ())) for row in users],
            tokens=[_token(row) for row in tokens],
            ended_sessions={row["id"]: row["expires_at"] for row in ended},
        )

    async def add_user(
        self, user_id: UserId, kind: UserKind, projects: Sequence[ProjectId], token: TokenRecord
    ) -> None:
        async def write(tick: Tick) -> None:
            cursor = await tick.db.execute(
                "INSERT INTO users (id, kind, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (user_id, kind, tick.at),
            )
            if cursor.rowcount == 0:
                raise NameTaken(user_id)
            await _join(tick.db, user_id, projects)
            await _insert_token(tick.db, token)

        await self._writer.do(write, state=True)

    async def readmit_user(
        self, user_id: UserId, projects: Sequence[ProjectId], token: TokenRecord
    ) -> None:
        async def write(tick: Tick) -> None:
            await tick.db.execute("UPDATE users SET revoked_at = NULL WHERE id = ?", (user_id,))
            await _join(tick.db, user_id, projects)
            await _insert_token(tick.db, token)

        await self._writer.do(write, state=True)

    async def revoke_user(self, user_id: UserId) -> None:
        async def write(tick: Tick) -> None:
            for sql in (
                "UPDATE users SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
                "UPDATE user_tokens SET revoked_at = ? WHERE user_id = ? AND revoked_at IS NULL",
            ):
                await tick.db.execute(sql, (tick.at, user_id))
            await tick.db.execute("DELETE FROM memberships WHERE user_id = ?", (user_id,))

        await self._writer.do(write, state=True)

    async def add_token(self, token: TokenRecord) -> None:
        async def write(tick: Tick) -> None:
            await _insert_token(tick.db, token)

        await self._writer.do(write, state=True)

    async def revoke_token(self, token_id: str) -> None:
        async def write(tick: Tick) -> None:
            await tick.db.execute(
                "UPDATE user_tokens SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
                (tick.at, token_id),
            )

        await self._writer.do(write, state=True)

    async def change_memberships(
        self, user_id: UserId, *, add: Sequence[ProjectId], remove: Sequence[ProjectId]
    ) -> None:
        async def write(tick: Tick) -> None:
            await _join(tick.db, user_id, add)
            await tick.db.executemany(
                "DELETE FROM memberships WHERE user_id = ? AND project_id = ?",
                [(user_id, project_id) for project_id in remove],
            )

        await self._writer.do(write, state=True)

    async def end_session(self, session_id: str, *, expires_at: str) -> None:
        async def write(tick: Tick) -> None:
            await tick.db.execute("DELETE FROM ended_sessions WHERE expires_at < ?", (tick.at,))
            await tick.db.execute(
                "INSERT OR REPLACE INTO ended_sessions VALUES (?, ?)", (session_id, expires_at)
            )

        await self._writer.do(write, state=True)

    async def all_projects(self) -> list[Project]:
        found = await self.all_rows("SELECT * FROM projects ORDER BY created_at, id")
        return [rows.project(row) for row in found]


def _user(row: sqlite3.Row, projects: Iterable[ProjectId]) -> UserRecord:
    return UserRecord(
        id=UserId(row["id"]),
        kind=UserKind(row["kind"]),
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
        projects=frozenset(projects),
    )


def _token(row: sqlite3.Row) -> TokenRecord:
    return TokenRecord(
        id=row["id"],
        user_id=UserId(row["user_id"]),
        digest=row["digest"],
        label=row["label"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )


async def _join(db: aiosqlite.Connection, user_id: UserId, projects: Sequence[ProjectId]) -> None:
    await db.executemany(
        "INSERT INTO memberships VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(user_id, project_id) for project_id in projects],
    )


async def _insert_token(db: aiosqlite.Connection, token: TokenRecord) -> None:
    await db.execute(
        "INSERT INTO user_tokens VALUES (?, ?, ?, ?, ?, ?, NULL)",
        (
            token.id,
            token.user_id,
            token.digest,
            token.label,
            token.created_at,
            token.expires_at,
        ),
    )
