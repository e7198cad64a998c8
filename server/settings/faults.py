"""Faults of the settings: each with its source, its key and the way out; many are few lines."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import NamedTuple

SHOWN = 20
"""So many faults are shown; the others are counted."""
LONGEST = 200
"""Characters of a text of the settings in a sentence."""


class Fault(NamedTuple):
    """What is wrong with one key; as text it is one line."""

    source: str
    """Where the key came from."""
    key: str
    """As `endpoints.gpu.slots`; empty for all that the source says."""
    says: str

    def __str__(self) -> str:
        return ": ".join([self.source, *([shown(self.key)] if self.key else []), self.says])


class SettingsError(Exception):
    """Settings that cannot be used: `problems` are a sentence for each fault, and when there are
    more than SHOWN, a last line that counts the others."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.problems = [str(fault) for fault in faults[:SHOWN]]
        if len(faults) > SHOWN:
            self.problems.append(f"and {len(faults) - SHOWN} more")
        super().__init__("; ".join(self.problems))


class Doubts:
    """Keys whose values are not known: they cannot be read, or a name near theirs was written. No
    rule speaks of them."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, ...]] = set()

    def add(self, *key: str) -> None:
        """Nothing is known of this key and what is in it; without a key, of any."""
        self._keys.add(key)

    def about(self, *key: str) -> bool:
        """Whether the value of a key is in doubt, or a table that it is in."""
        return any(key[:length] in self._keys for length in range(len(key) + 1))

    def about_some(self, table: str, field: str) -> bool:
        """Whether a field is in doubt in any entry of a table of tables with names."""
        return self.about(table) or any(
            key[0] == table and (len(key) == 2 or key[2] == field) for key in self._keys
        )


def shown(text: str) -> str:
    """A text of the settings in a sentence: short, on one line."""
    safe = "".join(c if c.isprintable() else "\ufffd" for c in text[: LONGEST + 1])
    return f"{safe[: LONGEST - 1]}…" if len(safe) > LONGEST else safe


def shown_url(text: str) -> str:
    """A URL, or what was meant as one, without what may be a secret: a password or a query."""
    before, at, after = text.rpartition("@")
    safe = f"{before.partition('://')[0]}://…@{after}" if at else text
    place, query, _ = safe.partition("?")
    return shown(f"{place}?…" if query else place)


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    close = get_close_matches(name.lower(), list(known), n=1)
    return close[0] if close else None


def listed(names: Iterable[str], *, most: int = SHOWN) -> str:
    """Names in a sentence; of many the first ones."""
    rest = iter(names)
    first = [shown(name) for name in islice(rest, most)]
    more = sum(1 for _ in rest)
    return ", ".join(first) + (f" and {more} more" if more else "")
