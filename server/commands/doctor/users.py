"""What `podium doctor` says of users: how many, and whose tokens end soon or have ended."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from flows.counted import number_of
from protocol.errors import ProtocolError
from protocol.users import TokenInfo, UserInfo, UserKind
from server.client import Unreachable
from server.commands.desk import open_desk
from server.commands.doctor.diagnosis import Diagnosis, warning
from server.commands.shared import CommandError
from server.settings import Settings
from server.settings.faults import listed
from server.stores.sqlite import FILE
from server.world import SystemClock

NAME = "users"
SOON = timedelta(days=7)
ALONE = "the operator alone"
NAMED = 10
"""So many are named in one line."""


async def users(settings: Settings) -> list[Diagnosis]:
    """Of the server that runs, or of the store. A store that is not there yet is not made."""
    if not await asyncio.to_thread((settings.directory / FILE).exists):
        return [Diagnosis(NAME, True, ALONE, required=False)]
    try:
        async with open_desk(settings, None) as desk:
            everyone = await desk.all()
    except (CommandError, ProtocolError, Unreachable, OSError) as error:
        says = str(error).partition("\n")[0]
        return [warning(NAME, f"cannot be listed: {says}", "`podium user list` asks again")]
    by_proxy = bool(settings.proxy_user_header)
    return told(everyone, now=SystemClock().now(), by_proxy=by_proxy)


def told(everyone: Sequence[UserInfo], *, now: datetime, by_proxy: bool) -> list[Diagnosis]:
    """`by_proxy`: whether a proxy signs users in, who then need no token."""
    active = [it for it in everyone if not it.revoked_at and it.kind is not UserKind.OPERATOR]
    good = {user.id: [it for it in user.tokens if _good(it, now)] for user in active}
    ending = [
        f"{user.id}'s {_named(token)} on {token.expires_at[:10]}"
        for user in active
        for token in good[user.id]
        if token.expires_at is not None and _moment(token.expires_at) <= now + SOON
    ]
    in_need = [it for it in active if not by_proxy or it.kind is UserKind.SERVICE]
    out = [it.id for it in in_need if not good[it.id]]
    found = [Diagnosis(NAME, True, _count(active, sum(map(len, good.values()))), required=False)]
    if ending:
        hint = "`podium user token NAME --days 90` makes another one"
        found.append(warning("tokens that expire soon", listed(ending, most=NAMED), hint))
    if out:
        hint = "`podium user token NAME` makes one, `podium user revoke NAME` takes the name out"
        found.append(warning("users without a good token", listed(out, most=NAMED), hint))
    return found


def _good(token: TokenInfo, now: datetime) -> bool:
    if token.revoked_at is not None:
        return False
    return token.expires_at is None or _moment(token.expires_at) > now


def _moment(at: str) -> datetime:
    return datetime.fromisoformat(at)


def _named(token: TokenInfo) -> str:
    return f"`{token.label}` ({token.id})" if token.label else token.id


def _count(active: Sequence[UserInfo], tokens: int) -> str:
    services = sum(it.kind is UserKind.SERVICE for it in active)
    if not active:
        return ALONE
    parts = ["the operator", number_of(len(active) - services, "user")]
    parts += [number_of(services, "service account")] if services else []
    return f"{', '.join(parts)}, with {number_of(tokens, 'good token')} of theirs"
