"""The stored log over REST: pages of frames, recordings, and the command that saves one."""

import asyncio
import gzip
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from server.http import log as log_routes
from server.http.log import takes_gzip
from server.stores import log_reader
from server.stores.reads import Reads
from tests.server.harness import TOKEN, House, house
from tests.server.readers import Talker, altered, events_of


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as opened_house:
        yield opened_house


async def original(home: House, run_id: str) -> list[bytes]:
    """The bytes of every frame, as the events have them."""
    return [it.data for it in await events_of(home, run_id) if b'"at":' in it.data]


def header_of(run_id: str, frames: int, **changes: Any) -> dict[str, Any]:
    usual = {"format": "podium.recording", "version": 1, "run_id": run_id, "gen": 1}
    return {**usual, "frames": frames, "ended": True, **changes}


# --- recordings ---------------------------------------------------------------------------------


async def test_a_recording_is_the_log_byte_for_byte(home: House) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    frames = await original(home, run_id)
    answer = await home.http.get(
        f"/api/runs/{run_id}/recording", headers={"Accept-Encoding": "identity"}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"] == (
        f'attachment; filename="podium-{run_id}.ndjson"'
    )
    assert "content-encoding" not in answer.headers
    (first, *lines) = answer.content.removesuffix(b"\n").split(b"\n")
    assert json.loads(first) == header_of(run_id, len(frames))
    assert lines == frames


async def test_it_is_compressed_for_whoever_takes_that(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    path = f"/api/runs/{run_id}/recording"
    plain = await home.http.get(path, headers={"Accept-Encoding": "identity"})
    monkeypatch.setattr(log_reader, "PAGE_BYTES", 1_000)
    async with home.http.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content) / 2


@pytest.mark.parametrize(
    ("header", "taken"),
    [("", False), ("gzip", True), ("deflate, GZIP ;q=0.5", True), ("gzip;q=0", False),
     ("gzip; q=0.00", False), ("*", True), ("*;q=0", False), ("gzip;q=0, *", False),
     ("identity", False), ("br", False)],
)  # fmt: skip
def test_who_takes_gzip(header: str, *, taken: bool) -> None:
    assert takes_gzip(header) is taken


async def test_folded_frames_are_in_it_as_they_were(home: House) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    path = f"/api/runs/{run_id}/recording"
    before = (await home.http.get(path)).content
    store = home.podium.runner._rooms.store
    assert await store.fold()
    assert not await store.fold(), "nothing is left that is not folded"
    assert (await home.http.get(path)).content == before


async def test_a_run_that_goes_on_is_recorded_only_when_asked(home: House) -> None:
    home.agent.hold()
    run_id = await home.launch()
    await home.agent.started(2)
    path = f"/api/runs/{run_id}/recording"
    early = await home.http.get(path)
    assert (early.status_code, early.json()["error"]) == (409, "busy")
    assert "live=1" in early.json()["hint"]
    so_far = (await home.http.get(path, params={"live": "1"})).content.splitlines()
    assert json.loads(so_far[0]) == header_of(run_id, len(so_far) - 1, ended=False)
    home.agent.release()
    await home.end_of(run_id)
    frames = await original(home, run_id)
    assert frames[: len(so_far) - 1] == so_far[1:]


async def test_what_is_published_meanwhile_is_not_in_it(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on between the header and the first page."""
    home.agent.hold()
    run_id = await home.launch()
    await home.agent.started(2)
    page = Reads.page

    async def later(self: Reads, *words: Any, **options: Any) -> Any:
        if not home.agent._free.is_set():
            home.agent.release()
            await home.end_of(run_id)
        return await page(self, *words, **options)

    monkeypatch.setattr(Reads, "page", later)
    answer = await home.http.get(f"/api/runs/{run_id}/recording", params={"live": "1"})
    (first, *lines) = answer.content.splitlines()
    assert json.loads(first)["frames"] == len(lines)
    assert len(lines) < len(await original(home, run_id))


async def test_expired_frames_are_no_recording(home: House, tmp_path: Path) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    await altered(tmp_path, "UPDATE flow_runs SET floor = head WHERE id = ?", run_id)
    answer = await home.http.get(f"/api/runs/{run_id}/recording")
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
    assert "expired" in answer.json()["message"]


@pytest.mark.parametrize("accepted", ["identity", "gzip"])
async def test_a_recording_that_loses_its_frames_has_no_end(
    home: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accepted: str
) -> None:
    """They expire while they are sent: nobody may take what came for the whole."""
    run_id = await home.launch()
    await home.end_of(run_id)
    monkeypatch.setattr(log_reader, "PAGE_BYTES", 1_000)
    await altered(tmp_path, "DELETE FROM flow_frames WHERE run_id = ? AND seq > 6", run_id)
    with pytest.raises(httpx.TransportError):
        await home.http.get(f"/api/runs/{run_id}/recording", headers={"Accept-Encoding": accepted})


# --- podium recording ---------------------------------------------------------------------------


class Result(NamedTuple):
    exit_code: int | None
    output: str


async def saved(home: House, *words: str) -> Result:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", "recording", *words, "--url", home.url,
        env={**os.environ, "PODIUM_TOKEN": TOKEN},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return Result(process.returncode, output.decode())


async def test_the_command_saves_the_whole_or_nothing(home: House, tmp_path: Path) -> None:
    run_id = await home.launch()
    await home.end_of(run_id)
    frames = await original(home, run_id)
    file = tmp_path / "out" / "log.ndjson"
    missing = await saved(home, run_id, "--output", str(file))
    assert (missing.exit_code, "cannot write" in missing.output) == (2, True)
    file.parent.mkdir()
    result = await saved(home, run_id, "--output", str(file))
    assert result.exit_code == 0, result.output
    assert result.output == f"{len(frames)} frames in {file}\n"
    assert file.read_bytes().splitlines()[1:] == frames
    assert file.stat().st_mode & 0o777 == 0o600
    again = await saved(home, run_id, "--output", str(file))
    assert (again.exit_code, "is there already" in again.output) == (2, True)
    await altered(tmp_path, "DELETE FROM flow_frames WHERE run_id = ? AND seq > 6", run_id)
    cut = await saved(home, run_id, "--output", str(file), "--force")
    assert (cut.exit_code, "did not send all" in cut.output) == (1, True), cut.output
    assert file.read_bytes().splitlines()[1:] == frames, "the old one is still there"
    assert list(file.parent.iterdir()) == [file]


async def test_the_command_says_what_to_do_with_a_run_that_goes_on(
    home: House, tmp_path: Path
) -> None:
    home.agent.hold()
    run_id = await home.launch()
    file = tmp_path / "log.ndjson"
    early = await saved(home, run_id, "--output", str(file))
    assert (early.exit_code, "has not ended" in early.output) == (1, True)
    assert not file.exists()
    assert (await saved(home, run_id, "--live", "--output", str(file))).exit_code == 0
    assert file.exists()


# --- pages of frames ----------------------------------------------------------------------------


async def page_of(home: House, run_id: str, query: str = "") -> dict[str, Any]:
    answer = await home.http.get(f"/api/runs/{run_id}/frames{query}")
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def seqs(frames: Sequence[dict[str, Any]]) -> list[int]:
    return [frame["seq"] for frame in frames]


async def test_pages_make_up_the_log(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await home.launch()
    whole = await home.end_of(run_id)
    head = len(whole)
    assert await page_of(home, run_id) == {
        "run_id": run_id, "gen": 1, "head": head, "from": 0, "expired": False, "frames": whole,
    }  # fmt: skip
    monkeypatch.setattr(log_routes, "PAGE_FRAMES", 4)
    got: list[dict[str, Any]] = []
    while True:
        page = await page_of(home, run_id, f"?after=1:{len(got)}")
        assert page["from"] == len(got)
        assert len(page["frames"]) <= 4
        if not page["frames"]:
            break
        got += page["frames"]
    assert got == whole
    outline = (await page_of(home, run_id, "?detail=outline"))["frames"]
    hidden = ("flow_run_step_delta", "flow_run_step_tool")
    assert outline == [frame for frame in whole if frame["type"] not in hidden][:4]


async def test_a_page_is_bounded_by_bytes_too(tmp_path: Path) -> None:
    async with house(tmp_path, agent=Talker(300)) as home:
        run_id = await home.launch()
        await home.end_of(run_id)
        answer = await home.http.get(f"/api/runs/{run_id}/frames")
    assert len(answer.content) < 300 * 1024
    assert 0 < len(answer.json()["frames"]) < answer.json()["head"]


async def test_edges_of_a_cursor(home: House, tmp_path: Path) -> None:
    run_id = await home.launch()
    head = len(await home.end_of(run_id))
    for after, start in ((head, head), (head + 1, head), (3, 3)):
        page = await page_of(home, run_id, f"?after=1:{after}")
        assert (page["from"], seqs(page["frames"])) == (start, list(range(start + 1, head + 1)))
    assert (await page_of(home, run_id, "?after=9:3"))["from"] == 0
    await altered(tmp_path, "INSERT INTO flow_generations VALUES (?, 2, 3)", run_id)
    await altered(tmp_path, "UPDATE flow_runs SET gen = 2 WHERE id = ?", run_id)
    page = await page_of(home, run_id, "?after=1:5")
    assert (page["gen"], page["from"], page["frames"][0]["seq"]) == (2, 3, 4)
    await altered(tmp_path, "UPDATE flow_runs SET floor = head WHERE id = ?", run_id)
    page = await page_of(home, run_id, "?after=2:4")
    assert (page["expired"], page["from"], page["frames"]) == (True, head, [])
    bad = await home.http.get(f"/api/runs/{run_id}/frames?after=x")
    assert bad.json()["error"] == "invalid query"
