"""A cancellation that comes when an attempt has its result, or when its process only begins."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.agents.containment import orphans, process
from server.agents.qwen_runner import Guards, QwenRunner
from server.agents.relay.passes import Pass
from server.ports import AttemptCancelled
from server.world import SystemClock
from tests.contract.test_qwen_cli import Bench
from tests.contract.test_stand_in import NOBODY
from tests.fakes import stand_in
from tests.fakes.stand_in import Script

pytestmark = pytest.mark.timeout(60)

SCRIPTS: dict[str, Script] = {
    "delivered": stand_in.good(),
    "failed": [*stand_in.begins(), *stand_in.exits(1)],
}


def bench(place: Path, script: Script) -> Bench:
    here = Bench(place, NOBODY)
    here.runner = QwenRunner(
        place / "data",
        clock=SystemClock(),
        guards=Guards(contained=False),
        installed=stand_in.install(place / "stand-in", script),
    )
    return here


def while_the_pass_closes(cancel: Callable[[], object], patched: pytest.MonkeyPatch) -> None:
    close = Pass.close

    async def closing(self: Pass) -> None:
        cancel()
        await asyncio.sleep(0)
        await close(self)

    patched.setattr(Pass, "close", closing)


def while_the_folder_goes(cancel: Callable[[], object], patched: pytest.MonkeyPatch) -> None:
    loop, rmtree = asyncio.get_running_loop(), shutil.rmtree

    def removing(place: Path, **how: Any) -> None:
        if (Path(place) / "stdout.jsonl").exists():
            loop.call_soon_threadsafe(cancel)
        rmtree(place, **how)

    patched.setattr(shutil, "rmtree", removing)


MOMENTS = [while_the_pass_closes, while_the_folder_goes]


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_its_receipt_is_not_lost(
    tmp_path: Path, moment: Any, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bench(tmp_path, script)
    async with here.open():
        running = asyncio.create_task(here.run())
        moment(running.cancel, monkeypatch)
        with pytest.raises(AttemptCancelled) as cancelled:
            await running
    result = cancelled.value.result
    assert result.receipt is not None
    assert result.receipt.ended_at
    assert result.failure is None, "it was cancelled; nothing is made again"


async def test_nor_is_that_of_a_process_that_only_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, loop, record = (
        bench(tmp_path, stand_in.hangs()),
        asyncio.get_running_loop(),
        orphans.record,
    )

    def recording(pid: int, place: Path) -> Any:
        loop.call_soon_threadsafe(running.cancel)
        return record(pid, place)

    monkeypatch.setattr(process, "record", recording)
    async with here.open():
        running = asyncio.create_task(here.run())
        with pytest.raises(AttemptCancelled) as cancelled:
            await running
    assert cancelled.value.result.receipt is not None
    assert cancelled.value.result.receipt.ended_at
    assert here.processes() == []
