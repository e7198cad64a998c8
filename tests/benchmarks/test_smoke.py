"""Every row of the channel's benchmarks, for a moment: that all readers get all messages in order,
and what is told of it. No time is judged."""

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import entrants, native, page
from benchmarks.__main__ import main
from benchmarks.chart import chart
from benchmarks.contest import contest
from benchmarks.entrants import Entrant
from benchmarks.groups import GROUPS
from benchmarks.machine import seen
from benchmarks.native import compiled
from benchmarks.options import Missing, Options
from benchmarks.processes import Broken, Readers, Server, cpu_of
from benchmarks.rows import Bound, Row, bounded

PANES = 10


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(1, True, tmp_path_factory.mktemp("bench"))


@pytest.fixture(autouse=True)
def without_peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What somebody has installed beside it changes nothing here."""
    monkeypatch.setattr(entrants, "PEERS", tmp_path / "none")


@pytest.mark.parametrize(
    "group", ["delivery", "pipeline", "many", "viewers", "replay", "list", "evidence"]
)
def test_every_reader_gets_every_message(options: Options, group: str) -> None:
    """The readers themselves end the run at a message that is missing, doubled or out of order."""
    rows = GROUPS[group].measure(options)
    judged = [row for row in rows if row.bound is not None]
    assert judged
    assert all(math.isfinite(value) and value > 0 for row in judged for value in row.values)


@pytest.mark.browser
@pytest.mark.real_agent
@pytest.mark.timeout(180)
@pytest.mark.parametrize("group", ["pane", "overhead"])
def test_agents_and_the_page_do_what_is_measured(options: Options, group: str) -> None:
    """Eight agents' words are on the page; an attempt delivers, alone and under podium."""
    rows = GROUPS[group].measure(options)
    assert all(math.isfinite(value) for row in rows for value in row.values)


def test_the_rows_of_the_design_are_there(options: Options) -> None:
    everyone, absent = entrants.entrants(options)
    names = {one.name for one in everyone}
    assert {entrants.SEND, entrants.BATCH, entrants.STARLETTE, entrants.BROADCAST} < names
    assert set(entrants.WAYS) < names
    peers = {entrants.NODE, entrants.SOCKET_IO, entrants.CHANNELS, entrants.PICOWS}
    assert set(absent) == peers


def test_a_pass_counts_what_was_delivered(options: Options) -> None:
    limit = [str(compiled("limit", options.place)), "send", '{"text":"', '"}']
    generator = compiled("generator", options.place)
    with Server(limit) as server, Readers(generator, server, PANES) as readers:
        done = readers.saturated(200, 32, 1)
        again = readers.paced(50, 1_000)
        size = done.bytes
    assert (done.readers, done.marks, again.marks) == (PANES, PANES * 200, PANES * 50)
    frame = len('{"text":"#1# "}') + 2
    digits = sum(len(str(number)) - 1 for number in range(1, 201))
    assert size == PANES * (200 * frame + digits)
    assert 0 < done.p50 <= done.p99 <= done.max


# --- the checker sees what is wrong ---------------------------------------------------------------

BROKEN = """
import sys
from websockets.sync.server import serve
def endpoint(socket):
    socket.send("ready")
    for number in {marks}:
        socket.send(f"#{{number}}#")
    for message in socket:
        pass
with serve(endpoint, "127.0.0.1", 0, compression=None) as server:
    print('{{"port": %d}}' % server.socket.getsockname()[1], flush=True)
    server.serve_forever()
"""


@pytest.mark.parametrize(
    ("marks", "seen_as"),
    [([1, 3], "3 after 1"), ([1, 1], "1 after 1"), ([2, 1], "2 after 0")],
    ids=["lost", "doubled", "out of order"],
)
def test_a_fault_of_the_server_ends_the_run(
    options: Options, marks: list[int], seen_as: str
) -> None:
    """What the server sends is fixed, so that only the readers can tell."""
    broken = [sys.executable, "-c", BROKEN.format(marks=marks)]
    with (
        Server(broken) as server,
        pytest.raises(Broken, match=seen_as),
        Readers(compiled("generator", options.place), server, 1) as readers,
    ):
        readers.paced(5, 1_000)


def test_a_server_that_says_nothing_is_told(options: Options) -> None:
    with (
        Server([sys.executable, "-c", "pass"]) as server,
        pytest.raises(Broken, match="said nothing"),
    ):
        Readers(compiled("generator", options.place), server, 1)


def test_without_a_compiler_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler",))
    with pytest.raises(Missing, match="no C compiler"):
        compiled("limit", tmp_path)
    assert run(monkeypatch, tmp_path, "--rows", "delivery,viewers") == 0
    told = capsys.readouterr().out
    assert told.count("no C compiler") == 2
    assert told.count("not measured") == 2


def test_ratios_are_of_one_round(options: Options) -> None:
    """A server against itself: the same process costs as much as itself."""
    limit = str(compiled("limit", options.place))
    generator = compiled("generator", options.place)
    both = [Entrant(name, [limit, "send", '{"text":"', '"}']) for name in ("one", "other")]
    results = contest(options._replace(passes=2), generator, both, PANES, paced=True)
    assert [len(results.saturated[name]) for name in ("one", "other")] == [2, 2]
    assert len(results.ratios("one", "other", paced=True)) == 2
    assert results.ratios("one", "one") == [1, 1]
    assert results.ratios("one", "nobody") == []


# --- what is said of it ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "good", "failed"),
    [([1.0, 1.1, 9.0], True, False), ([1.3, 1.5, 1.5], False, False), ([2, 2, 1.0], False, True)],
)
def test_the_median_is_judged(values: list[float], good: bool, failed: bool) -> None:
    row = bounded("a row", values, Bound(1.15, 1.6))
    assert (row.good, row.failed) == (good, failed)


def test_a_least_bound_is_judged_the_other_way() -> None:
    bound = Bound(2, 1.6, least=True)
    judged = [bounded("a row", [value], bound) for value in (2.1, 1.8, 1.5)]
    assert [(row.good, row.failed) for row in judged] == [
        (True, False), (False, False), (False, True),
    ]  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, place: Path, *words: str) -> int:
    monkeypatch.setattr("benchmarks.__main__.RESULTS", place / "build" / "results.jsonl")
    monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
    return main()


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """One group that measures what the test says."""
    found: list[Row] = []
    group = GROUPS["list"]._replace(measure=lambda options: found)
    monkeypatch.setitem(GROUPS, "list", group)
    return found


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (1.5, 0), (1.7, 1)])
def test_only_past_the_loose_bound_a_run_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Row], value: float, code: int
) -> None:
    rows.append(bounded("a row", [value], Bound(1.15, 1.6)))
    assert run(monkeypatch, tmp_path, "--rows", "list") == code
    line = json.loads((tmp_path / "build" / "results.jsonl").read_text())
    assert line["rows"][0]["values"] == [value]
    assert line["versions"]["Python"]


def test_the_page_holds_the_last_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Row]
) -> None:
    rows += [
        bounded("ours & theirs <1>", [1.0, 1.2, 2.5], Bound(1.15, 1.6)),
        Row("said alone", "", "36 ms", good=True),
    ]
    monkeypatch.setattr(page, "PAGE", tmp_path / "README.md")
    monkeypatch.setattr(page, "CHART", tmp_path / "chart.svg")
    page.PAGE.write_text(f"before\n{page.BEGIN}old\n{page.END}after\n")
    assert run(monkeypatch, tmp_path, "--rows", "list", "--write") == 0
    text = page.PAGE.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| ours & theirs <1> | ≤ 1.15 × | ≤ 1.6 × | 1.20 × (1.00–2.50) |" in text
    assert "said alone" in text
    drawn = ET.fromstring(page.CHART.read_text())
    texts = [it.text for it in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "ours & theirs <1>" in texts


def test_the_chart_turns_a_least_bound_round() -> None:
    at_most = bounded("a", [0.5], Bound(1, 2))
    at_least = bounded("a", [2.0], Bound(1, 0.5, least=True))
    assert chart([at_most]) == chart([at_least])


def test_the_real_page_has_a_place_for_the_table() -> None:
    text = page.PAGE.read_text("utf-8")
    assert text.count(page.BEGIN) == text.count(page.END) == 1
    assert text.index(page.BEGIN) < text.index(page.END)


def test_help_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, "--list") == 0
    assert "delivery" in capsys.readouterr().out
    for words, code, says in ((["--help"], 0, "--passes"), (["--rows", "x"], 2, "no group x")):
        with pytest.raises(SystemExit) as ended:
            run(monkeypatch, tmp_path, *words)
        assert ended.value.code == code
        told = capsys.readouterr()
        assert says in told.out + told.err
        assert "measuring" not in told.err
    assert not (tmp_path / "build").exists()


def test_the_machine_is_told() -> None:
    machine = seen()
    assert machine.cores >= 1
    assert "uvicorn" in machine.versions


def test_cpu_is_that_of_the_process() -> None:
    busy = "sum(range(10**6)); print('done', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        spent = cpu_of(process.pid)
        assert spent > 0
        process.kill()
