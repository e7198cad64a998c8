"""What the settings must say before podium starts: a guard is as strong as it was set, or there is
no start. Pure but for looking whether a folder exists.
"""

import ipaddress
import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from server.addresses import fault_of, is_loopback, is_plain, is_remote, path_of

if TYPE_CHECKING:  # the settings are made with this module
    from server.settings import ModelSettings, Settings


TOKEN_LENGTH = 16
PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
"""What no proxy, browser and cookie reads in different ways."""


def problems(settings: "Settings") -> list[str]:
    """Every rule that the settings break, as a sentence with its key, its source and the way
    out."""
    return [
        f"{settings.source(key)}: {key}: {says}"
        for rule in (_data, _token, _addresses, _listening, _proxies, _names, _sharing, _roots)
        for key, says in rule(settings)
    ]


def unknown_roles(settings: "Settings", known: Collection[str]) -> list[str]:
    """The roles of the settings that no flow of the catalogue has."""
    found = []
    for role in sorted(set(settings.roles) - set(known)):
        close = get_close_matches(role, list(known), n=1)
        way_out = f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(known)}"
        key = f"roles.{role}"
        found.append(f"{settings.source(key)}: {key}: no flow has a role `{role}`; {way_out}")
    return found


OF_THE_SYSTEM = {("/", name) for name in ("dev", "proc", "sys", "usr")}
"""Folders that cannot hold the data folder, as the first parts of a path."""
Fault = tuple[str, str]
"""A key and what is wrong with it."""
LEAST_PREFIX = {4: 16, 6: 48}
"""Of a network of proxies: one that is wider was not meant."""
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,99}")
_NOT_A_USER = ("authorization", "cookie", "host", "origin", "x-forwarded-for", "x-forwarded-host")


def _data(settings: "Settings") -> Iterator[Fault]:
    if "," in settings.data:
        # The agent takes a comma between folders: it would be given another one than the copy.
        yield "data", f"{_shown(settings.data)} holds a comma; choose a folder without one"
    if Path(settings.data).parts[:2] in OF_THE_SYSTEM:
        # An agent's containment has its own, or all of the host's: a copy below it is not alone.
        yield "data", f"{_shown(settings.data)} belongs to the system; choose a folder elsewhere"


def _token(settings: "Settings") -> Iterator[Fault]:
    token = settings.token
    if token and (len(token) < TOKEN_LENGTH or not (token.isascii() and token.isprintable())):
        yield (
            "token",
            f"can be guessed, and no server has such a one; take {TOKEN_LENGTH} random characters"
            " or more, or leave it out and podium makes one",
        )


def _addresses(settings: "Settings") -> Iterator[Fault]:
    for name, endpoint in settings.endpoints.items():
        key, url = f"endpoints.{name}.base_url", endpoint.base_url
        fault = fault_of(url)
        if fault is not None:
            yield key, f"`{_shown(url)}` {fault}"
        elif is_remote(url):
            yield from _beyond(key, url, remote=endpoint.remote, plaintext=endpoint.plaintext)


def _beyond(key: str, url: str, *, remote: bool, plaintext: bool) -> Iterator[Fault]:
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


def _listening(settings: "Settings") -> Iterator[Fault]:
    if not is_loopback(settings.host) and not settings.public_url:
        yield (
            "host",
            f"{settings.host} is beyond loopback; set public_url to the address that browsers use,"
            " so that other sites can be refused",
        )
    places = [("public_url", settings.public_url)] if settings.public_url else []
    places += [("allowed_origins", origin) for origin in settings.allowed_origins]
    for key, url in places:
        fault = fault_of(url) or _fault_of_path(key, path_of(url))
        if fault is not None:
            yield key, f"`{_shown(url)}` {fault}"


def _fault_of_path(key: str, path: str) -> str | None:
    if key == "allowed_origins" and path:
        return "has a path; an origin ends with its host and port"
    if not PLAIN_PATH.fullmatch(path):
        return "has a path with more than letters, digits, `-`, `_` and `.` between its slashes"
    if path.split("/")[1:2] in (["api"], ["healthz"], ["readyz"]):
        return "has a path that begins like podium's own; choose another one"
    return None


# ── names ────────────────────────────────────────────────────────────────────────────────────────


def _names(settings: "Settings") -> Iterator[Fault]:
    known = settings.all_models
    for name, model in settings.models.items():
        if model.endpoint not in settings.endpoints:
            yield f"models.{name}.endpoint", _nothing(model.endpoint, settings.endpoints)
        if not _somebody(settings, model):
            yield (
                f"models.{name}.users",
                f"names nobody who may use the endpoint `{model.endpoint}`; name somebody of"
                " [endpoints.*].users, or take the line out",
            )
        if not model.model:
            yield f"models.{name}.model", "is empty; write the name that the endpoint knows"
        if _is_model_itself(settings, name):
            yield (
                f"models.{name}",
                f"the endpoint `{name}` is a model of that name itself; choose another name here,"
                f" or take `model` out of [endpoints.{name}]",
            )
    for role, name in settings.roles.items():
        if name not in known:
            yield f"roles.{role}", _nothing(name, known)
    yield from _default(settings)


def _is_model_itself(settings: "Settings", name: str) -> bool:
    endpoint = settings.endpoints.get(name)
    served = {model.endpoint for model in settings.models.values()}
    return endpoint is not None and (bool(endpoint.model) or name not in served)


def _somebody(settings: "Settings", model: "ModelSettings") -> bool:
    """Whether anybody may use the model of those who may use its endpoint."""
    endpoint = settings.endpoints.get(model.endpoint)
    if endpoint is None or endpoint.users is None or model.users is None:
        return True
    return bool(set(endpoint.users) & set(model.users))


def _default(settings: "Settings") -> Iterator[Fault]:
    known = settings.all_models
    name = settings.default_name
    if settings.default_model and name not in known:
        yield "default_model", _nothing(settings.default_model, known)
    elif name is None and known:
        yield "default_model", f"is missing; set it to one of {', '.join(known)}"


def _nothing(name: str, known: Collection[str]) -> str:
    there = f"there are: {', '.join(known)}" if known else "there is none"
    return f"`{name}` names nothing; {there}"


# ── several people, or a network ─────────────────────────────────────────────────────────────────


def faults_of_several(settings: "Settings", why: str) -> list[Fault]:
    """What the settings lack for several people; `why` says in a clause that there are some."""
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


def problems_of_several(settings: "Settings", why: str) -> list[str]:
    """The same as `problems` has them."""
    return [
        f"{settings.source(key)}: {key}: {says}" for key, says in faults_of_several(settings, why)
    ]


def _why_shared(settings: "Settings") -> str:
    if not is_loopback(settings.host):
        return f"podium listens beyond loopback (host = {settings.host})"
    if settings.trusted_proxies:
        return "a proxy is trusted (trusted_proxies)"
    return f"several users are named ({', '.join(sorted(settings.users))})"


def _sharing(settings: "Settings") -> Iterator[Fault]:
    if settings.shared:
        yield from faults_of_several(settings, _why_shared(settings))


def _proxies(settings: "Settings") -> Iterator[Fault]:
    header = settings.proxy_user_header
    if header and not settings.trusted_proxies:
        yield (
            "proxy_user_header",
            "is believed from nobody; set trusted_proxies to the addresses of your proxy, as"
            ' ["127.0.0.1/32"], or take it out',
        )
    if header and (not _HEADER.fullmatch(header) or header.lower() in _NOT_A_USER):
        yield "proxy_user_header", f"`{_shown(header)}` cannot name a user; take X-Forwarded-User"
    for network in settings.trusted_proxies:
        fault = _fault_of_proxy(network)
        if fault:
            yield "trusted_proxies", f"`{_shown(network)}` {fault}"


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


def _roots(settings: "Settings") -> Iterator[Fault]:
    for root in settings.project_roots:
        fault = _fault_of_root(root, settings.directory)
        if fault:
            yield "project_roots", f"{_shown(root)} {fault}"


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


def _shown(text: str) -> str:
    """A text of the settings in a sentence: short, on one line, and without a password."""
    before, at, after = text.rpartition("@")
    safe = f"{before.partition('://')[0]}://…@{after}" if at else text
    return "".join(c if c.isprintable() else "\ufffd" for c in safe)[:200]
