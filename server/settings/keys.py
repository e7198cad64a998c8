"""Keys of endpoints: from the settings, a variable or a file, and never where others can read."""

import re
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from server.settings.faults import Doubts, Fault, shown
from server.settings.tables import EndpointSettings, Settings

WAYS = ("api_key", "api_key_env", "api_key_file")
MAX_KEY_BYTES = 16_384
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
"""As variables are named; anything else may be the key itself, and is not shown."""


class Keys:
    """Fills every endpoint's `api_key` in; what is wrong is in `faults`, and never a key: somebody
    may have written one where its name belongs."""

    def __init__(self, file: Path, environment: Mapping[str, str], doubts: Doubts) -> None:
        """`file` is the settings file."""
        self.faults: list[Fault] = []
        self._file = file
        self._environment = environment
        self._doubts = doubts

    def filled(self, settings: Settings) -> Settings:
        """The settings with each key in its endpoint."""
        self._check_file(settings)
        endpoints = {
            name: self._endpoint(settings, name, endpoint)
            for name, endpoint in settings.endpoints.items()
        }
        return msgspec.structs.replace(settings, endpoints=endpoints)

    def _check_file(self, settings: Settings) -> None:
        """A secret in a settings file that others can read is no secret; and who can write it
        decides about every guard."""
        file = str(self._file)
        try:
            mode = self._file.stat().st_mode
        except OSError:
            return  # there is none; one that had to be there is a fault already
        if mode & stat.S_IWOTH:
            says = "everyone on this machine can write this file; run"
            self.faults.append(Fault(file, "", f"{says} `chmod o-w {shlex.quote(file)}`"))
        secrets = [f"endpoints.{name}.api_key" for name, it in settings.endpoints.items()
                   if it.api_key]  # fmt: skip
        secrets += ["token"] if settings.token else []
        inside = [key for key in secrets if settings.source(key) == file]
        if inside and mode & stat.S_IROTH:
            says = "everyone on this machine can read this file; run"
            self.faults.append(Fault(file, inside[0], f"{says} `chmod 600 {shlex.quote(file)}`"))

    def _endpoint(
        self, settings: Settings, name: str, endpoint: EndpointSettings
    ) -> EndpointSettings:
        if any(self._doubts.about("endpoints", name, way) for way in WAYS):
            return endpoint
        used = [way for way in WAYS if getattr(endpoint, way)]
        key, says = endpoint.api_key, None
        if len(used) > 1:
            says = f"{' and '.join(used)} contradict; keep one of them"
            used = []
        elif endpoint.api_key_env:
            key, says = self._from_variable(endpoint.api_key_env)
        elif endpoint.api_key_file:
            key, says = _from_file(endpoint.api_key_file)
        if not (says or (key.isascii() and key.isprintable())):
            says = "the key has characters that no key has"
        if says:
            source = settings.source(f"endpoints.{name}")
            self.faults.append(Fault(source, ".".join(["endpoints", name, *used]), says))
        return msgspec.structs.replace(endpoint, api_key=key)

    def _from_variable(self, name: str) -> tuple[str, str | None]:
        """The key, and what is wrong."""
        key = self._environment.get(name, "")
        if key:
            return key, None
        if _VARIABLE.fullmatch(name):
            return "", f"the variable {name} is not set; set it, or take the line out"
        return "", "names no variable that is set; the name belongs here, and not the key itself"


def _from_file(name: str) -> tuple[str, str | None]:
    """The key, and what is wrong."""
    try:
        path = Path(name).expanduser()
        if not path.is_absolute():
            return "", "is no absolute path; write it out in full"
        if path.stat().st_mode & stat.S_IROTH:
            run = f"`chmod 600 {shlex.quote(str(path))}`"
            return "", f"everyone on this machine can read {path}; run {run}"
        with path.open("rb") as file:
            key = file.read(MAX_KEY_BYTES).decode().strip()
    except OSError as error:
        return "", f"{shown(name)} cannot be read: {error.strerror}"
    except (ValueError, RuntimeError):
        return "", f"{shown(name)} cannot be read: it is no path, or not UTF-8"
    return key, None if key else f"{path} is empty; write the key into it"
