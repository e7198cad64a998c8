"""Addresses of models and of this server: what is taken, what is loopback, what people are shown.

Everything is decided by the spelling. Nothing is resolved: a name that answers with 127.0.0.1 today
may answer with another address tomorrow.
"""

import ipaddress
import re
from urllib.parse import urlsplit

_LOCAL = ipaddress.ip_network("127.0.0.0/8")
_LOCAL_6 = ipaddress.ip_address("::1")
# Parsers disagree about everything that is not plainly one of these.
_TEXT = re.compile(r"[!-~]+")
_PLACE = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: `localhost`, 127.0.0.0/8 or ::1, in their usual spelling."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address == _LOCAL_6 or (address.version == 4 and address in _LOCAL)


def is_remote(url: str) -> bool:
    """Whether a URL without a fault leads beyond this machine."""
    return not is_loopback(urlsplit(url).hostname or "")


def is_plain(url: str) -> bool:
    return urlsplit(url).scheme == "http"


def host_of(url: str) -> str:
    """The host and port that people are shown."""
    return urlsplit(url).netloc.rpartition("@")[2]


def host_name(host: str) -> str:
    """The name of a Host header, without its port and brackets."""
    name, _, port = host.rpartition(":")
    if name and port.isdecimal():
        host = name
    return host.strip("[]").lower()


def origin_of(url: str) -> str:
    """A URL without a fault as browsers write it into `Origin`: no path, no port that goes without
    saying."""
    parts = urlsplit(url.lower())
    usual = {"http": ":80", "https": ":443"}[parts.scheme]
    return f"{parts.scheme}://{parts.netloc.removesuffix(usual)}"


def path_of(url: str) -> str:
    """The path of a URL as `/podium`; empty for the root."""
    return urlsplit(url).path.rstrip("/")


def fault_of(url: str) -> str | None:
    """Why a text is no address that podium would use; None when it is one."""
    if not _TEXT.fullmatch(url) or "\\" in url:
        return "has characters that do not belong into a URL"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no http(s) URL"
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return "is no http(s) URL"
    if "@" in parts.netloc:
        return "has credentials in it; use `api_key`, `api_key_env` or `api_key_file`"
    if "?" in url or "#" in url:
        return "has a query or a fragment; a base URL ends with its path"
    if not _PLACE.fullmatch(parts.netloc) or port == 0:
        return "is no http(s) URL: its host or its port cannot be one"
    return None
