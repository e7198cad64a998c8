"""`[limits]` of the settings: what one user and all together may take, and the descriptors that it
needs."""

import resource
from typing import Annotated

from msgspec import Meta, Struct

from protocol.frames import Limits
from server.logs import logger

log = logger(__name__)

Count = Annotated[int, Meta(ge=1, le=10_000)]
Rate = Annotated[float, Meta(gt=0, le=10_000)]

HEARTBEAT_SECONDS = 15.0
MOST_DESCRIPTORS = 65_536
"""More are not asked for, whatever the system would give: agents inherit the limit."""
KEPT_DESCRIPTORS = 1_024
"""For plain requests, the store, git and the pipes of agents."""


class LimitSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No person meets these. Each has an error of its own, or a close code."""

    sockets: Annotated[int, Meta(ge=1, le=60_000)] = 10_000
    """Of all users; never more than the system has descriptors for."""
    strangers: Count = 64
    """Sockets that may wait for the ticket of their `hello`."""
    sockets_per_user: Count = 32
    """Open at once."""
    streams_per_user: Count = 32
    """Event streams that are open at once."""
    tickets_per_user: Count = 32
    """Tickets that wait to be used."""
    subscriptions: Count = 200
    """Runs that one socket follows."""
    message_bytes: Annotated[int, Meta(ge=1_024, le=512 * 1_024)] = 65_536
    """Of one message, in UTF-8."""
    fragments: Annotated[int, Meta(ge=1, le=4_096)] = 64
    """Of one message."""
    message_burst: Count = 64
    """Messages of one socket at once …"""
    messages_per_second: Annotated[int, Meta(ge=1, le=10_000)] = 20
    """… and how fast they may follow."""
    waiting_messages: Annotated[int, Meta(ge=1, le=1_000)] = 16
    """Messages of one socket that wait for their answers."""
    request_burst: Count = 600
    """REST requests of one user at once …"""
    requests_per_second: Rate = 100.0
    """… and how fast they may follow."""
    launch_burst: Count = 30
    """Launches, reruns and plans of one user at once …"""
    launches_per_second: Rate = 1.0
    """… and how fast they may follow."""
    launches_under_way: Count = 16
    """Launches, reruns and plans of one user that are being made ready."""
    runs_per_user: Count = 100
    """Runs of one user that have not ended."""


def wire_limits(limits: LimitSettings) -> Limits:
    """What `flow_run_hello` says of them."""
    return Limits(
        message_bytes=limits.message_bytes,
        fragments=limits.fragments,
        subscriptions=limits.subscriptions,
        sockets=limits.sockets_per_user,
        burst=limits.message_burst,
        per_second=limits.messages_per_second,
        waiting=limits.waiting_messages,
        heartbeat_seconds=HEARTBEAT_SECONDS,
    )


def most_sockets(limits: LimitSettings) -> int:
    """How many sockets the server takes: as many as the settings say, or as few as there are
    descriptors for. Asks the system for all that it gives."""
    given = descriptors()
    most = max(given - KEPT_DESCRIPTORS, given // 2)
    if most < limits.sockets:
        log.warning("few_descriptors", sockets=most, wanted=limits.sockets, descriptors=given)
    return min(most, limits.sockets)


def descriptors() -> int:
    """Raise the soft limit as far as it goes; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        # macOS refuses what its kernel does not give, whatever the hard limit says.
        return soft
    return wanted
