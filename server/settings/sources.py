"""Where settings come from: defaults < TOML file < environment < flags, joined key by key."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from server.addresses import fault_of, is_remote
from server.settings.faults import SHOWN, Doubts, Fault, near, shown
from server.settings.tables import Settings, default_data, default_file
from server.settings.values import fields_of

MOST_BYTES = 256 * 1024
"""Of a settings file."""
MOST_DOTS = 1_000
"""In one of its lines: the time and the memory that a dotted key takes grow with their square."""
STRENGTHS = ("off", "auto", "required")
"""Of the containment, the weakest first."""
PREFIX = "PODIUM_"
ENVIRONMENT = {
    f"{PREFIX}HOST": "host",
    f"{PREFIX}PORT": "port",
    f"{PREFIX}DATA": "data",
    f"{PREFIX}TOKEN": "token",
    f"{PREFIX}PUBLIC_URL": "public_url",
    f"{PREFIX}CONTAINMENT": "containment",
    f"{PREFIX}LOG_LEVEL": "log_level",
}
REMOTE = f"{PREFIX}REMOTE"
ENDPOINT_ENVIRONMENT = {
    "OPENAI_BASE_URL": "base_url",
    "OPENAI_API_KEY": "api_key",
    "OPENAI_MODEL": "model",
}
FLAGS = "the command line"


class Sources:
    """All that the sources say, the later ones over the earlier ones."""

    def __init__(self, file: Path, doubts: Doubts) -> None:
        self.values: dict[str, Any] = {}
        self.of: dict[str, str] = {}
        """The source by key."""
        self.in_file: dict[str, Any] = {}
        self.faults: list[Fault] = []
        self._file = file
        self._doubts = doubts

    def take(
        self, flags: Mapping[str, Any], environment: Mapping[str, str], *, needed: bool
    ) -> None:
        """Join the sources. Without `needed` the file may be missing."""
        self.in_file = self._read(needed=needed)
        self._take(self.in_file, str(self._file))
        self._take_environment(environment)
        self._take({key: it for key, it in flags.items() if it is not None}, FLAGS)
        self.faults += self._loosened()
        # Empty is not the folder that podium happens to be started in, which may be a project.
        if self.values.get("data", "") == "":
            self.values["data"] = str(default_data())

    def _read(self, *, needed: bool) -> dict[str, Any]:
        try:
            if not needed and not self._file.exists():
                return {}
            return _parsed(self._file)
        except (OSError, ValueError, RecursionError) as error:
            says = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
            self.faults.append(Fault(str(self._file), "", shown(says)))
            # What it would have said is not known: no rule can be held against the defaults.
            self._doubts.add()
            return {}

    def _take(self, found: Mapping[str, Any], source: str) -> None:
        """Later sources win key by key."""
        self.values.update(found)
        self.of.update(dict.fromkeys(found, source))

    def _loosened(self) -> Iterator[Fault]:
        """Later sources win, but no variable and no flag takes away a guard that the file asks
        for."""
        asked, given = self.in_file.get("containment"), self.values.get("containment")
        known = asked in STRENGTHS and given in STRENGTHS
        if known and STRENGTHS.index(given) < STRENGTHS.index(asked):
            yield Fault(
                self.of["containment"],
                "containment",
                f"`{given}` is less than `{asked}` in {self._file};"
                " change it there if that is what you want",
            )

    def _take_environment(self, environment: Mapping[str, str]) -> None:
        for variable, key in ENVIRONMENT.items():
            if environment.get(variable):
                self._take({key: environment[variable]}, f"the environment ({variable})")
        # A key alone never selects a remote host: without a base URL the other two are not ours.
        if environment.get("OPENAI_BASE_URL"):
            self._take_endpoint(environment)

    def _take_endpoint(self, environment: Mapping[str, str]) -> None:
        """The endpoint of the environment is the model of everything: of every role, and the
        default.

        It takes the place of the file's `default`, but for who may use that: no variable lets more
        people in, or makes several users one.
        """
        source = "the environment (OPENAI_BASE_URL)"
        endpoint: dict[str, Any] = {
            key: environment[variable]
            for variable, key in ENDPOINT_ENVIRONMENT.items()
            if environment.get(variable)
        }
        endpoint["remote"] = self._allowed_beyond(environment, source)
        known = self.values.get("endpoints", {})
        earlier = known.get("default") if isinstance(known, dict) else None
        if isinstance(earlier, dict) and "users" in earlier:
            endpoint["users"] = earlier["users"]
        others = known if isinstance(known, dict) else {}
        self.values |= {"endpoints": {**others, "default": endpoint}, "default_model": "default"}
        self.values["roles"] = {}
        self.of.update(dict.fromkeys(("endpoints.default", "default_model", "roles"), source))

    def _allowed_beyond(self, environment: Mapping[str, str], source: str) -> bool:
        """Whether the environment's endpoint may lie beyond this machine; notes when it must
        not."""
        said = environment.get(REMOTE, "")
        if said not in ("", "0", "1"):
            says = f"{REMOTE} is `{shown(said)}`; set it to 1 or unset it"
            self.faults.append(Fault("the environment", "", says))
        url = environment["OPENAI_BASE_URL"]
        if fault_of(url) is None and is_remote(url) and said != "1":
            says = (
                f"{shown(url)} is beyond this machine, and text of the project would be sent there;"
                f" set {REMOTE}=1 to allow that, or unset OPENAI_BASE_URL and name the endpoint"
                f" with `remote = true` in {default_file()}"
            )
            self.faults.append(Fault(source, "", says))
            return True  # complained about; the guards need not do it again
        return said == "1"


def _parsed(path: Path) -> dict[str, Any]:
    """Raises OSError or ValueError for what is no settings file, RecursionError for what is nested
    too deeply to be one."""
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES:,} bytes, which no settings are")
    if any(line.count(b".") > MOST_DOTS for line in content.splitlines()):
        raise ValueError(f"has more than {MOST_DOTS:,} dots in one line; write it in several")
    text = content.decode("utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is no valid TOML: {error}") from error
    except ValueError:
        # Python reads no number of thousands of digits.
        raise ValueError("has a number that is too long for any setting") from None


def misspelt(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that were meant for podium and are not read, with the way out; at most SHOWN.

    Others have variables that begin so (a service of that name in a cluster, a chat back-end that
    holds a token of podium's), so only what is near to one of podium's, or a key of the settings,
    is taken for one. Never their values: they may be secrets.
    """
    known = {name.removeprefix(PREFIX) for name in (*ENVIRONMENT, REMOTE)}
    names = [name for name in environment if name.startswith(PREFIX)]
    found = ((name, _meant(name.removeprefix(PREFIX), known)) for name in names)
    told = [(name, way_out) for name, way_out in found if way_out]
    yield from told[:SHOWN]


def _meant(name: str, known: set[str]) -> str | None:
    if name in known:
        return None
    if name.lower() in fields_of(Settings):
        return f"`{name.lower()}` is set in {default_file()} only"
    guess = near(name, {it.lower() for it in known})
    return f"did you mean {PREFIX}{guess.upper()}?" if guess else None
