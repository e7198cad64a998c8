"""A run may be named by how its id begins, and a recording is not written over in silence."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.client import Client
from server.commands import saving
from server.commands.run_ids import full_id
from server.commands.saving import save_recording
from server.commands.shared import CommandError, project_root
from tests.server.harness import TOKEN, House, house


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


async def test_the_beginning_of_an_id_is_enough(home: House) -> None:
    run_id, other = await home.launch(), await home.launch()
    async with Client(home.url, TOKEN) as client:
        assert await full_id(client, run_id) == run_id
        assert await full_id(client, run_id[:8]) == run_id
        assert await full_id(client, other[:20].upper()) == other


@pytest.mark.parametrize("given", ["nosuch", "", "0b5f3c9", "0b5f3c9e/../..", "0b5f3c9e" * 5])
async def test_what_is_no_id_says_how_one_looks(given: str) -> None:
    """Nothing is asked: nobody answers there."""
    async with Client("http://127.0.0.1:9", TOKEN) as client:
        with pytest.raises(CommandError) as refused:
            await full_id(client, given)
    assert "such as 0b5f3c9e-" in refused.value.message
    assert "`podium runs` lists them" in refused.value.message


async def test_a_beginning_of_no_run_is_refused(home: House) -> None:
    async with Client(home.url, TOKEN) as client:
        with pytest.raises(CommandError, match="no run of yours"):
            await full_id(client, "00000000-")


class Listing(Client):
    """Answers the run list alone: two runs a page, as `before` says."""

    def __init__(self, *ids: str) -> None:
        super().__init__("http://127.0.0.1:9", TOKEN)
        self._ids = list(ids)

    async def get(self, path: str) -> Any:
        before = path.partition("before=")[2]
        first = self._ids.index(before) + 1 if before else 0
        return {"runs": [{"id": name} for name in self._ids[first : first + 2]]}


async def test_a_beginning_of_several_runs_is_refused_wherever_they_are_listed() -> None:
    ids = [f"{number:08x}-0000-4000-8000-000000000000" for number in (1, 2, 3, 4)]
    twin = "00000001-1111-4000-8000-000000000000"
    assert await full_id(Listing(*ids), "00000004") == ids[3]
    with pytest.raises(CommandError, match="begins the ids of 2 runs"):
        await full_id(Listing(*ids, twin), "00000001")


async def test_a_recording_is_not_written_over(home: House, tmp_path: Path) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    path = tmp_path / "log.ndjson"
    path.write_text("mine")
    async with Client(home.url, TOKEN) as client:
        with pytest.raises(CommandError, match="--force"):
            await save_recording(client, run_id, path, live=False, force=False)
        assert path.read_text() == "mine"
        assert await save_recording(client, run_id, path, live=False, force=True) > 0
    assert path.read_text() != "mine"


@pytest.mark.parametrize("links", [True, False])
async def test_a_file_that_came_while_a_recording_did_is_not_written_over(
    home: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    path = tmp_path / "log.ndjson"
    whole = saving.check

    def meanwhile(partial: Path) -> int:
        path.write_text("theirs")
        return whole(partial)

    def refused(*_: object) -> None:
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr("os.link", refused)
    async with Client(home.url, TOKEN) as client:
        with monkeypatch.context() as patch:
            patch.setattr(saving, "check", meanwhile)
            with pytest.raises(CommandError, match="is there already"):
                await save_recording(client, run_id, path, live=False, force=False)
        assert path.read_text() == "theirs"
        path.unlink()
        assert await save_recording(client, run_id, path, live=False, force=False) > 0
    assert not [it for it in tmp_path.iterdir() if it.name.startswith(".log")]


def test_a_file_is_no_project(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    file = tmp_path / "README.md"
    file.write_text("x")
    with pytest.raises(CommandError, match="is a file"):
        project_root(str(file))
    assert project_root(str(tmp_path)) == tmp_path.resolve()
