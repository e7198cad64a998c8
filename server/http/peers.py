"""Where a request comes from, and whose word is taken on that: that of the listed proxies alone."""

import ipaddress
from collections.abc import Sequence

from starlette.requests import HTTPConnection


class Peers:
    """`trusted`: addresses and networks of reverse proxies."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = [ipaddress.ip_network(network) for network in trusted]

    def through_proxy(self, connection: HTTPConnection) -> bool:
        """Whether a trusted proxy has handed this request on: by the TCP connection, not by what
        the request says."""
        return self._is_trusted(_tcp_peer(connection))

    def address(self, connection: HTTPConnection) -> str:
        """Who asks: the TCP peer, or the last one before our proxies by their own account."""
        peer = _tcp_peer(connection)
        if not self._is_trusted(peer):
            return peer
        # Each proxy adds whom it saw at the end; what stands before the first foreign one may be
        # invented.
        told = ",".join(connection.headers.getlist("x-forwarded-for")).split(",")
        for place in reversed(told):
            address = _plain(place.strip())
            if address is None:
                break
            if not self._is_trusted(address):
                return address
        return peer

    def _is_trusted(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)


def _tcp_peer(connection: HTTPConnection) -> str:
    client = connection.client
    return "" if client is None else _plain(client.host) or ""


def _plain(text: str) -> str | None:
    """An address in its usual spelling, an IPv4 one that came over an IPv6 socket as IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
