"""Keys of endpoints: from the settings, a variable or a file, and never where others can read."""

import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:  # the settings are made with this module
    from server.settings import EndpointSettings, Settings

WAYS = ("api_key", "api_key_env", "api_key_file")
MAX_KEY_BYTES = 16_384


class Keys:
    """Fills every endpoint's `api_key` in; what is wrong is added to `problems`."""

    def __init__(self, file: Path, environment: Mapping[str, str], problems: list[str]) -> None:
        """`file` is the settings file."""
        self._file = file
        self._environment = environment
        self._problems = problems

    def filled(self, settings: "Settings") -> "Settings":
        """The settings with each key in its endpoint."""
        self._check_file(settings)
        endpoints = {
            name: self._endpoint(settings, name, endpoint)
            for name, endpoint in settings.endpoints.items()
        }
        return msgspec.structs.replace(settings, endpoints=endpoints)

    def _check_file(self, settings: "Settings") -> None:
        """A secret in a settings file that others can read is no secret; and who can write it
        decides about every guard."""
        if _mode(self._file) & stat.S_IWOTH:
            self._problems.append(
                f"{self._file}: everyone on this machine can write this file; run"
                f" `chmod o-w {shlex.quote(str(self._file))}`"
            )
        secrets = [f"endpoints.{name}.api_key" for name, it in settings.endpoints.items()
                   if it.api_key]  # fmt: skip
        secrets += ["token"] if settings.token else []
        inside = [key for key in secrets if settings.source(key) == str(self._file)]
        if inside and _mode(self._file) & stat.S_IROTH:
            self._problems.append(
                f"{self._file}: {inside[0]}: everyone on this machine can read this file; run"
                f" `chmod 600 {shlex.quote(str(self._file))}`"
            )

    def _endpoint(
        self, settings: "Settings", name: str, endpoint: "EndpointSettings"
    ) -> "EndpointSettings":
        where = f"{settings.source(f'endpoints.{name}')}: endpoints.{name}"
        used = [way for way in WAYS if getattr(endpoint, way)]
        if len(used) > 1:
            self._problems.append(f"{where}: {' and '.join(used)} contradict; keep one of them")
            return endpoint
        key = endpoint.api_key
        if endpoint.api_key_env:
            key = self._from_variable(endpoint.api_key_env, where)
        elif endpoint.api_key_file:
            key = self._from_file(endpoint.api_key_file, where)
        if not (key.isascii() and key.isprintable()):
            self._problems.append(f"{where}.{used[0]}: the key has characters that no key has")
        return msgspec.structs.replace(endpoint, api_key=key)

    def _from_variable(self, name: str, where: str) -> str:
        key = self._environment.get(name, "")
        if not key:
            self._problems.append(
                f"{where}.api_key_env: the variable {name} is not set; set it, or take the line out"
            )
        return key

    def _from_file(self, name: str, where: str) -> str:
        path = Path(name).expanduser()
        where = f"{where}.api_key_file"
        if not path.is_absolute():
            self._problems.append(f"{where}: {name} is no absolute path; write it out in full")
            return ""
        try:
            if path.stat().st_mode & stat.S_IROTH:
                self._problems.append(
                    f"{where}: everyone on this machine can read {path}; run"
                    f" `chmod 600 {shlex.quote(str(path))}`"
                )
            with path.open("rb") as file:
                key = file.read(MAX_KEY_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            self._problems.append(f"{where}: {path} cannot be read: {error}")
            return ""
        if not key:
            self._problems.append(f"{where}: {path} is empty; write the key into it")
        return key


def _mode(path: Path) -> int:
    """0 where there is no file, or none any more."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return 0
