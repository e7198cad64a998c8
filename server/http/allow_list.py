"""Under which names this server may be asked, and by which pages: against DNS rebinding and the
pages of other sites."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from protocol.errors import ErrorCode
from server.addresses import host_name, origin_of
from server.http.refused import Refused
from server.settings import Settings
from server.settings.tables import LOOPBACK

SINGLE = ("host", "origin", "authorization")
"""Headers that two readers could take differently when they come twice."""


class AllowList:
    """The hosts, and the origins beside those of the host that was asked."""

    def __init__(self, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self.hosts = frozenset(host.lower() for host in hosts)
        self.origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def check(self, headers: Headers) -> None:
        """Raise Refused for a Host or an Origin that is not ours."""
        for name in SINGLE:
            if len(headers.getlist(name)) > 1:
                raise foreign(f"the header `{name}` came more than once")
        host = host_name(headers.get("host", ""))
        if host not in self.hosts:
            raise foreign(f"the host `{host[:200]}` is not one of this server")
        origin = headers.get("origin")
        if origin is not None and not self._ours(origin, headers.get("host", "")):
            raise foreign(f"the origin `{origin[:200]}` is not allowed")

    def _ours(self, origin: str, host: str) -> bool:
        origin = origin.lower().rstrip("/")
        return origin in self.origins or origin in (f"http://{host}", f"https://{host}")


def allow_list_of(settings: Settings) -> AllowList:
    """Loopback, where it listens, and what the settings name."""
    hosts = [*LOOPBACK, settings.host]
    origins = [origin_of(url) for url in settings.allowed_origins]
    public = urlsplit(settings.public_url)
    if public.hostname:
        hosts.append(public.hostname)
        origins.append(origin_of(settings.public_url))
    return AllowList(hosts, origins)


def foreign(message: str) -> Refused:
    return Refused(
        403,
        ErrorCode.FORBIDDEN,
        message,
        hint="set public_url or allowed_origins in the settings if this place is yours",
    )
