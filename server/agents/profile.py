"""What was measured of each version of qwen that podium may start, and nothing else may differ.

One file per version in `qwen/profiles/`, shipped with podium. A version without a file was never
tested: another one may offer another tool, or mean something else by the same flag.
`make bump-qwen VERSION=x` measures a version and says what differs.
"""

from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from server.ports import AgentUnavailable

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Flag = Annotated[str, Meta(pattern=r"^--[a-z][a-z-]{1,40}$")]


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The measured contract of one version."""

    version: Annotated[str, Meta(pattern=r"^\d+\.\d+\.\d+$")]
    mode: Name
    """The approval mode that is asked for, and that its first line must name."""
    tools: frozenset[Name]
    """Exactly what its first line and the model request must offer; one more or less is a
    surprise that ends the attempt."""
    excluded: tuple[Name, ...]
    """Every tool that is taken away by name."""
    offered_by_default: frozenset[Name]
    """What it offers without our flags: each is allowed or excluded."""
    flags: frozenset[Flag]
    """Flags that `--help` must name: without one of them a guard would be missing."""
    init_keys: frozenset[str]
    """The keys of its first line."""
    events: frozenset[str]
    """The kinds of lines on stdout, as `system/init`."""
    request_bytes: int
    """Of the first model request with our flags and a short prompt."""
    exit_codes: Mapping[str, int]
    """By what happened: `delivered`, `plain_text`, `refused_key`, `turn_limit`, `call_limit`."""


def decode(text: bytes) -> Profile:
    """Read a profile. Raises ValueError when it is none, or when it contradicts itself."""
    profile = msgspec.json.decode(text, type=Profile)
    both = profile.tools & set(profile.excluded)
    if both:
        raise ValueError(f"allowed and excluded: {', '.join(sorted(both))}")
    open_ = profile.offered_by_default - profile.tools - set(profile.excluded)
    if open_:
        raise ValueError(f"neither allowed nor excluded: {', '.join(sorted(open_))}")
    return profile


def encode(profile: Profile) -> bytes:
    """Return the profile as its file has it; the same profile gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(profile, order="deterministic")) + b"\n"


def profile_of(version: str) -> Profile:
    """Return the profile of a tested version; raises AgentUnavailable for any other."""
    if version not in PROFILES:
        raise AgentUnavailable(
            "qwen_untested",
            f"qwen {version[:40]} was never tested with podium (tested: {', '.join(PROFILES)})",
            hint="run `podium setup`, which installs the tested one; in a checkout,"
            " `make bump-qwen VERSION=…` says what another one does differently",
        )
    return PROFILES[version]


def _shipped() -> Mapping[str, Profile]:
    """The profiles of this package. Raises ValueError when one is broken: then nothing starts."""
    folder = resources.files("server.agents").joinpath("qwen", "profiles")
    found = [
        (file.name, decode(file.read_bytes()))
        for file in folder.iterdir()
        if file.name.endswith(".json")
    ]
    for name, profile in found:
        if name != f"{profile.version}.json":
            raise ValueError(f"{name} is the profile of {profile.version}")
    return MappingProxyType({profile.version: profile for _, profile in sorted(found)})


PROFILES = _shipped()
"""By version. Read once, with the module: a broken file is a server that does not start."""


def _pinned() -> Profile:
    package = resources.files("server.agents").joinpath("qwen", "package.json")
    pins = msgspec.json.decode(package.read_bytes())["dependencies"]
    return profile_of(pins["@qwen-code/qwen-code"])


PINNED = _pinned()
"""Of the version that `podium setup` and `make install` install."""
