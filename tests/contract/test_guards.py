"""Each guard of an attempt, taken away by itself: the next one holds, or what it kept out comes in.

The tree is hostile, and the agent does what the missing guard would have stopped. With all guards
in place the same attempt is harmless: that is the first half of each test.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.resources import Proof, SelfTest
from server.agents import attempt, invocation, stream_json
from server.agents.containment import cage
from server.agents.containment.cage import PRELOAD, Launch
from server.agents.copies.seen import Seen
from server.agents.installation import Installation
from server.agents.relay.rules import Admission
from server.ports import AgentOrder, AgentResult
from tests.contract.test_qwen_cli import GOOD, Bench, bench
from tests.contract.test_stand_in import standing_in
from tests.fakes import stand_in
from tests.fakes.hostile import fired, hostile_repository
from tests.fakes.model import FakeModel, Gate, calls, serving
from tests.fakes.scripted import allowed
from tests.fakes.stand_in import Script

pytestmark = pytest.mark.timeout(90)

BEGINS = stand_in.begins()
ASKS = stand_in.requests(stand_in.chat())
DELIVERS = stand_in.delivers()
SHELL = [{"type": "function", "function": {"name": "run_shell_command", "parameters": {}}}]
KEY = "the-key"


@asynccontextmanager
async def hostile(
    place: Path, *scripts: Script, model: FakeModel | None = None, contained: bool = False
) -> AsyncIterator[tuple[Bench, FakeModel]]:
    """The stand-in on the hostile tree; none of the tree's tricks has run at the end."""
    model = model or FakeModel(GOOD)
    async with serving(model.app) as url:
        here = standing_in(place, *scripts, url=url, contained=contained)
        await prepare(here)
        async with here.open():
            yield here, model
    assert fired(place / "canaries") == set()
    assert here.processes() == []


async def prepare(here: Bench) -> None:
    await asyncio.to_thread(hostile_repository, here.tree, here.place / "canaries", proxy=None)


def reason(result: AgentResult) -> str | None:
    return result.failure.reason if result.failure else None


# ── the list of excluded tools, and the first line ───────────────────────────────────────────────


@pytest.fixture
def all_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is offered every tool that it has."""
    command = invocation.command

    def without_list(*given: Any) -> list[str]:
        words = command(*given)
        at = words.index("--exclude-tools")
        return words[:at] + words[at + 2 :]

    monkeypatch.setattr(invocation, "command", without_list)


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_json, "distrust", lambda init, expected: None)


async def test_a_good_agent_on_the_hostile_tree_delivers(tmp_path: Path) -> None:
    """The control of all that follows."""
    async with hostile(tmp_path, BEGINS, ASKS, DELIVERS) as (here, model):
        result = await here.run()
    assert reason(result) is None
    assert len(model.requests) == 1


@pytest.mark.usefixtures("all_tools")
async def test_without_the_list_the_first_line_ends_it(tmp_path: Path) -> None:
    async with hostile(tmp_path, BEGINS, ASKS, DELIVERS) as (here, model):
        result = await here.run()
    assert reason(result) == "unexpected_tools"
    assert model.requests == []


@pytest.mark.usefixtures("all_tools")
async def test_without_the_list_and_the_first_line_the_relay_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind(monkeypatch)
    asks = stand_in.requests(stand_in.chat(tools=SHELL))
    async with hostile(tmp_path, BEGINS, asks, DELIVERS) as (here, model):
        result = await here.run()
        assert reason(result) == "unexpected_tools"
        assert model.requests == []
        monkeypatch.setattr(attempt, "_admission", admitting(with_shell))
        result = await here.run()
    assert len(model.requests) == 1, "without the relay's own list it is asked"
    assert reason(result) is None


def with_shell(admission: Admission) -> Admission:
    return msgspec.structs.replace(admission, tools=frozenset({"run_shell_command"}))


def admitting(change: Callable[[Admission], Admission]) -> Callable[..., Admission]:
    admission = attempt._admission

    def changed(installed: Installation, order: AgentOrder) -> Admission:
        return change(admission(installed, order))

    return changed


@pytest.mark.real_agent
@pytest.mark.usefixtures("all_tools")
@pytest.mark.parametrize("first_line", [True, False])
async def test_the_real_cli_with_all_its_tools_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, first_line: bool
) -> None:
    if not first_line:
        blind(monkeypatch)
    writes = calls("write_file", {"file_path": str(tmp_path / "tree" / "PWNED"), "content": "x"})
    async with bench(tmp_path, writes) as (here, model):
        await prepare(here)
        result = await here.run()
        assert here.processes() == []
    assert reason(result) == "unexpected_tools"
    assert model.requests == []
    assert fired(tmp_path / "canaries") == set()
    assert not (here.tree / "PWNED").exists()


# ── the gate ─────────────────────────────────────────────────────────────────────────────────────


async def test_the_gate_keeps_the_model_from_an_agent_that_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks before it has said what it is: whoever looks at its words only looks too late."""
    async with hostile(tmp_path, ASKS, BEGINS, DELIVERS) as (here, model):
        result = await here.run(first_byte=1)
        assert reason(result) == "first_byte_timeout"
        assert model.requests == []
        unheld = admitting(lambda given: msgspec.structs.replace(given, held=False))
        monkeypatch.setattr(attempt, "_admission", unheld)
        result = await here.run()
        assert reason(result) == "no_introduction"
        assert len(model.requests) == 1


# ── the containment ──────────────────────────────────────────────────────────────────────────────


def writable(words: list[str], tree: str) -> list[str]:
    at = next(
        at for at, word in enumerate(words) if word == "--ro-bind" and words[at + 1] == tree
    )  # fmt: skip
    return [*words[:at], "--bind", *words[at + 1 :]]


def without(flag: str) -> Callable[[list[str], str], list[str]]:
    def changed(words: list[str], _: str) -> list[str]:
        assert flag in words
        return [word for word in words if word != flag]

    return changed


def confining(change: Callable[[list[str], str], list[str]]) -> Callable[..., Launch]:
    """The containment of an attempt with one change; what the host allows was found before."""
    confined = cage.confined

    def changed(*given: Any, **named: Any) -> Launch:
        launch = confined(*given, **named)
        return launch._replace(command=change(launch.command, str(named["cage"].tree)))

    return changed


async def test_a_contained_agent_on_the_hostile_tree_is_proven(tmp_path: Path) -> None:
    await asyncio.to_thread(allowed)
    async with hostile(tmp_path, BEGINS, ASKS, DELIVERS, contained=True) as (here, model):
        result = await here.run()
    assert reason(result) is None
    assert len(model.requests) == 1
    assert result.receipt is not None
    assert result.receipt.proven is Proof.YES
    assert result.receipt.write_probe is SelfTest.FAILED_AS_IT_MUST


@pytest.mark.parametrize(
    ("change", "probe", "words"),
    [
        (writable, "write_probe", "write into the copy"),
        (without("--unshare-net"), "network_probe", "the host's network"),
        (without("--unshare-pid"), "process_probe", "a process of the host"),
    ],
)
async def test_a_wall_that_is_missing_is_found_from_inside(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[list[str], str], list[str]],
    probe: str,
    words: str,
) -> None:
    await asyncio.to_thread(allowed)
    monkeypatch.setattr(cage, "confined", confining(change))
    async with hostile(tmp_path, BEGINS, ASKS, DELIVERS, contained=True) as (here, model):
        result = await here.run()
    assert reason(result) == "read_only_unproven"
    assert result.failure is not None
    assert words in result.failure.message
    assert result.receipt is not None
    assert getattr(result.receipt, probe) is SelfTest.SUCCEEDED
    assert result.receipt.proven is Proof.NO
    assert model.requests == []


async def test_an_agent_that_does_not_test_itself_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(allowed)

    def untested(words: list[str], _: str) -> list[str]:
        at = words.index(str(PRELOAD), words.index("--import"))
        return [*words[: at - 1], *words[at + 1 :]]

    monkeypatch.setattr(cage, "confined", confining(untested))
    async with hostile(tmp_path, BEGINS, ASKS, DELIVERS, contained=True) as (here, model):
        result = await here.run()
    assert reason(result) == "self_test_missing"
    assert model.requests == []


# ── the key ──────────────────────────────────────────────────────────────────────────────────────


def holding(secret: str, here: Bench) -> list[str]:
    """Where a running agent has a secret: environments, arguments, the attempt's files."""
    places = [
        Path(f"/proc/{pid}/{name}") for pid in here.processes() for name in ("environ", "cmdline")
    ]
    files = [place for place in (here.place / "data").rglob("*") if place.is_file()]
    return [str(place) for place in (*places, *files) if secret.encode() in place.read_bytes()]


LOOKS = [*BEGINS, *stand_in.shows_environment(), *stand_in.shows_arguments(), *ASKS, *DELIVERS]


async def places_of_the_key(place: Path, *, contained: bool) -> list[str]:
    """Looked for while the model is asked, with the key that the endpoint gets."""
    gate = Gate()
    model = FakeModel(gate.hold(GOOD))
    async with hostile(place, LOOKS, model=model, contained=contained) as (here, _):
        running = asyncio.create_task(here.run())
        await model.arrived(1)
        assert here.endpoint.api_key == KEY
        assert await asyncio.to_thread(here.processes)
        found = await asyncio.to_thread(holding, KEY, here)
        gate.open()
        assert reason(await running) is None
    return found


@pytest.mark.parametrize("contained", [True, False])
async def test_no_agent_has_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, contained: bool
) -> None:
    if contained:
        await asyncio.to_thread(allowed)
    assert await places_of_the_key(tmp_path, contained=contained) == []
    environment = invocation.environment

    def leaking(installed: Installation, order: AgentOrder, *given: Any) -> dict[str, str]:
        return environment(installed, order, *given) | {"LEAK": order.endpoint.api_key}

    monkeypatch.setattr(invocation, "environment", leaking)
    (tmp_path / "leaking").mkdir()
    found = await places_of_the_key(tmp_path / "leaking", contained=contained)
    assert any(place.endswith("environ") for place in found), "the look finds it where it is"
    assert any(place.endswith("stdout.jsonl") for place in found)


async def test_the_relay_puts_the_key_in(tmp_path: Path) -> None:
    """The endpoint gets the key, and the agent's token stays here."""
    seen: list[str] = []
    model = FakeModel(GOOD)
    app = model.app

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers") or ())
        seen.append(headers.get(b"authorization", b"").decode())
        await app(scope, receive, send)

    async with serving(listening) as url:  # type: ignore[arg-type]
        here = standing_in(tmp_path, LOOKS, url=url)
        result = await here.run()
    assert reason(result) is None
    assert [it for it in seen if it] == [f"Bearer {KEY}"]
    shown = environment_of(here)
    assert shown["OPENAI_API_KEY"] not in ("", KEY)
    assert here.endpoint.base_url != shown["OPENAI_BASE_URL"]


def environment_of(here: Bench) -> dict[str, str]:
    texts: Sequence[str] = [getattr(frame, "text", "") for frame in here.frames]
    found: dict[str, str] = json.loads(next(text for text in texts if "OPENAI_API_KEY" in text))
    return found


# ── the look at the copy ─────────────────────────────────────────────────────────────────────────


async def test_a_write_that_is_taken_back_is_seen(tmp_path: Path) -> None:
    """Uncontained nothing keeps an agent from it, and the content is what it was."""
    puts = "{tree}/src/calc.py"
    async with hostile(tmp_path, BEGINS) as (here, _):
        text = (here.tree / "src" / "calc.py").read_text()
        there_and_back = [*stand_in.puts(puts, "PWNED = True\n"), *stand_in.puts(puts, text)]
        stand_in.install(here.place / "stand-in", BEGINS, there_and_back, DELIVERS)
        result = await here.run()
        assert (here.tree / "src" / "calc.py").read_text() == text
    assert reason(result) == "read_only_unproven"
    assert result.receipt is not None
    assert result.receipt.tree_before != result.receipt.tree_after


async def test_without_the_look_a_write_goes_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = stand_in.puts("{tree}/src/calc.py", "PWNED = True\n")
    async with hostile(tmp_path, BEGINS, writes, DELIVERS) as (here, _):
        result = await here.run()
        assert reason(result) == "read_only_unproven"
        assert result.raw is None
        monkeypatch.setattr(attempt, "look", lambda *_, **__: Seen("t", "r"))
        more = stand_in.puts("{tree}/src/calc.py", "PWNED = 2\n")
        stand_in.install(here.place / "stand-in", BEGINS, more, DELIVERS)
        result = await here.run()
        assert (here.tree / "src" / "calc.py").read_text() == "PWNED = 2\n"
    assert reason(result) is None
    assert result.raw == stand_in.ANSWER
