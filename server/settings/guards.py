"""What the settings must say before podium starts: a guard is as strong as it was set, or there is
no start. Pure but for looking whether a folder exists.
"""

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path

from server.addresses import fault_of, is_loopback, is_plain, is_remote, path_of
from server.settings.faults import Doubts, Fault, listed, shown, shown_url
from server.settings.guards_of_models import misnamed
from server.settings.tables import Settings

TOKEN_LENGTH = 16
PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
"""What no proxy, browser and cookie reads in different ways."""
OF_THE_SYSTEM = {("/", name) for name in ("dev", "proc", "sys", "usr")}
"""Folders that cannot hold the data folder, as the first parts of a path."""
LEAST_PREFIX = {4: 16, 6: 48}
"""Of a network of proxies: one that is wider was not meant."""
_NAME_OF_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,99}")
_NOT_A_USER = ("authorization", "cookie", "host", "origin", "x-forwarded-for", "x-forwarded-host")


def faults(settings: Settings, doubts: Doubts) -> list[Fault]:
    """Every rule that the settings break, with the way out; none that needs what is in doubt."""
    ruled = [
        (_data, ("data",)),
        (_token, ("token",)),
        (_listening, ("host", "public_url")),
        (_public_url, ("public_url",)),
        (_origins, ("allowed_origins",)),
        (_believed, ("proxy_user_header", "trusted_proxies")),
        (_header, ("proxy_user_header",)),
        (_proxies, ("trusted_proxies",)),
        (_roots, ("project_roots", "data")),
    ]
    said = [
        it
        for rule, needs in ruled
        if not any(doubts.about(key) for key in needs)
        for it in rule(settings)
    ]
    said += _addresses(settings, doubts)
    said += misnamed(settings, doubts)
    said += _sharing(settings, doubts)
    return [Fault(settings.source(key), key, says) for key, says in said]


def _data(settings: Settings) -> Iterator[tuple[str, str]]:
    if "," in settings.data:
        # The agent takes a comma between folders: it would be given another one than the copy.
        yield "data", f"{shown(settings.data)} holds a comma; choose a folder without one"
    if "\0" in settings.data:
        yield "data", f"{shown(settings.data)} cannot be used as a path; correct it"
    if Path(settings.data).parts[:2] in OF_THE_SYSTEM:
        # An agent's containment has its own, or all of the host's: a copy below it is not alone.
        yield "data", f"{shown(settings.data)} belongs to the system; choose a folder elsewhere"


def _token(settings: Settings) -> Iterator[tuple[str, str]]:
    token = settings.token
    if token and (len(token) < TOKEN_LENGTH or not (token.isascii() and token.isprintable())):
        yield (
            "token",
            f"can be guessed, and no server has such a one; take {TOKEN_LENGTH} random characters"
            " or more, or leave it out and podium makes one",
        )


def _addresses(settings: Settings, doubts: Doubts) -> Iterator[tuple[str, str]]:
    for name, endpoint in settings.endpoints.items():
        needs = ("base_url", "remote", "plaintext")
        if any(doubts.about("endpoints", name, field) for field in needs):
            continue
        key, url = f"endpoints.{name}.base_url", endpoint.base_url
        fault = fault_of(url)
        if fault is not None:
            yield key, f"`{shown_url(url)}` {fault}"
        elif is_remote(url):
            yield from _beyond(
                key, shown(url), remote=endpoint.remote, plaintext=endpoint.plaintext
            )


def _beyond(key: str, url: str, *, remote: bool, plaintext: bool) -> Iterator[tuple[str, str]]:
    if not remote:
        yield (
            key,
            f"{url} is beyond this machine, and text of the project would be sent there; add"
            " `remote = true` to its table to allow that",
        )
    if is_plain(url) and not plaintext:
        yield (
            key,
            f"{url} is not encrypted; use https, or add `plaintext = true` to its table in the"
            " settings file when everyone on the way may read along",
        )


def _listening(settings: Settings) -> Iterator[tuple[str, str]]:
    if not is_loopback(settings.host) and not settings.public_url:
        yield (
            "host",
            f"{shown(settings.host)} is beyond loopback; set public_url to the address that"
            " browsers use, so that other sites can be refused",
        )


def _public_url(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.public_url:
        yield from _of_a_site("public_url", settings.public_url)


def _origins(settings: Settings) -> Iterator[tuple[str, str]]:
    for origin in settings.allowed_origins:
        yield from _of_a_site("allowed_origins", origin)


def _of_a_site(key: str, url: str) -> Iterator[tuple[str, str]]:
    fault = fault_of(url) or _fault_of_path(key, path_of(url))
    if fault is not None:
        yield key, f"`{shown_url(url)}` {fault}"


def _fault_of_path(key: str, path: str) -> str | None:
    if key == "allowed_origins" and path:
        return "has a path; an origin ends with its host and port"
    if not PLAIN_PATH.fullmatch(path):
        return "has a path with more than letters, digits, `-`, `_` and `.` between its slashes"
    if path.split("/")[1:2] in (["api"], ["healthz"], ["readyz"]):
        return "has a path that begins like podium's own; choose another one"
    return None


# ── several people, or a network ─────────────────────────────────────────────────────────────────


def lacks_of_several(settings: Settings, why: str) -> list[tuple[str, str]]:
    """The keys that must say something else for several people, each with what is wrong with it;
    `why` says in a clause that there are some."""
    faults = []
    if settings.containment == "off":
        says = f"`off` is not allowed while {why}; take it out, or set it to auto"
        faults.append(("containment", says))
    if not settings.project_roots:
        says = (
            f"is required while {why}; name the folders that hold what may be reviewed, as"
            ' ["/srv/code"]'
        )
        faults.append(("project_roots", says))
    return faults


def faults_of_several(settings: Settings, why: str) -> list[Fault]:
    """The same as `faults` has them."""
    lacks = lacks_of_several(settings, why)
    return [Fault(settings.source(key), key, says) for key, says in lacks]


def _why_shared(settings: Settings) -> str:
    if not is_loopback(settings.host):
        return f"podium listens beyond loopback (host = {shown(settings.host)})"
    if settings.trusted_proxies:
        return "a proxy is trusted (trusted_proxies)"
    return f"several users are named ({listed(sorted(settings.users))})"


def _sharing(settings: Settings, doubts: Doubts) -> Iterator[tuple[str, str]]:
    doubtful = any(doubts.about(key) for key in ("host", "trusted_proxies")) or any(
        doubts.about_some(table, "users") for table in ("endpoints", "models")
    )
    if settings.shared and not doubtful:
        lacks = lacks_of_several(settings, _why_shared(settings))
        yield from (lack for lack in lacks if not doubts.about(lack[0]))


def _believed(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.proxy_user_header and not settings.trusted_proxies:
        yield (
            "proxy_user_header",
            "is believed from nobody; set trusted_proxies to the addresses of your proxy, as"
            ' ["127.0.0.1/32"], or take it out',
        )


def _header(settings: Settings) -> Iterator[tuple[str, str]]:
    header = settings.proxy_user_header
    if header and (not _NAME_OF_HEADER.fullmatch(header) or header.lower() in _NOT_A_USER):
        yield "proxy_user_header", f"`{shown(header)}` cannot name a user; take X-Forwarded-User"


def _proxies(settings: Settings) -> Iterator[tuple[str, str]]:
    for network in settings.trusted_proxies:
        fault = _fault_of_proxy(network)
        if fault:
            yield "trusted_proxies", f"`{shown(network)}` {fault}"


def _fault_of_proxy(text: str) -> str | None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return 'is no address and no network; write it as "10.0.0.7" or "10.0.0.0/28"'
    least = LEAST_PREFIX[network.version]
    if network.prefixlen < least and not network.is_loopback:
        return (
            f"trusts {network.num_addresses:,} addresses to say who somebody is; name the proxy"
            f" itself (/{least} is the largest network taken)"
        )
    return None


def _roots(settings: Settings) -> Iterator[tuple[str, str]]:
    for root in settings.project_roots:
        fault = _fault_of_root(root, settings.directory)
        if fault:
            yield "project_roots", f"{shown(root)} {fault}"


def _fault_of_root(root: str, data: Path) -> str | None:
    if not Path(root).is_absolute():
        return "is no absolute path; write it out in full"
    try:
        path, data = Path(root).resolve(), data.resolve()
        if not path.is_dir():
            return "is no folder; make it, or correct the path"
    except (OSError, ValueError, RuntimeError):
        return "cannot be used as a path; correct it"
    if path == Path(path.anchor):
        return "is the whole disk and bounds nothing; name the folders that are meant"
    if path.is_relative_to(data):
        return f"is podium's own data directory {data}; name another folder"
    return None
