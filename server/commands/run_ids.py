"""A run as a person names it on the command line: by its id, or by how that begins."""

import re

from protocol.ids import RunId, is_uuid
from server.client import Client
from server.commands.shared import USAGE, CommandError

LEAST = 8
"""Characters of an id that are enough."""
MAX_PAGES = 50
"""Pages of the run list that are searched, the newest first."""
_BEGINNING = re.compile(r"[0-9a-f-]+")
_HOW = f"`podium runs` lists them; the first {LEAST} characters are enough"


async def full_id(client: Client, given: str) -> RunId:
    """The id of the one run that `given` names; raises CommandError for none and for several."""
    text = given.strip().lower()
    if is_uuid(text):
        return RunId(text)
    if not _BEGINNING.fullmatch(text) or not LEAST <= len(text) < 36:
        example = "0b5f3c9e-41d2-4c07-9a55-1c2d3e4f5a6b"
        raise CommandError(
            f"{given[:100]!r} is no id of a run, such as {example}", hint=_HOW, code=USAGE
        )
    found = [name for name in await _all_ids(client) if name.startswith(text)]
    if len(found) > 1:
        named = ", ".join(found[:5])
        raise CommandError(
            f"{text} begins the ids of {len(found)} runs: {named}", hint=_HOW, code=USAGE
        )
    if not found:
        raise CommandError(
            f"no run of yours has an id that begins with {text}", hint=_HOW, code=USAGE
        )
    return RunId(found[0])


async def _all_ids(client: Client) -> list[str]:
    ids: list[str] = []
    for _ in range(MAX_PAGES):
        older = f"?before={ids[-1]}" if ids else ""
        page = [row["id"] for row in (await client.get(f"/api/runs{older}"))["runs"]]
        if not page:
            break
        ids += page
    return ids
