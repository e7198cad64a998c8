"""The rows about the page: what it costs a browser to show eight agents that write at once."""

import asyncio
import shutil
from pathlib import Path

from playwright.async_api import CDPSession, Page, async_playwright, expect

from benchmarks.options import Missing, Options
from benchmarks.rows import Bound, Row, bounded
from benchmarks.server import Bench, launched, stand_in
from benchmarks.starts import tree
from server.client import Client

AGENTS, PER_SECOND, SECONDS = 8, 200, 30
PATIENCE = 60.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
"""Chromium refuses its own sandbox to root."""
LONG_TASKS = """
    window.longTasks = [];
    new PerformanceObserver((list) => window.longTasks.push(...list.getEntries()))
      .observe({ type: "longtask" });
"""


def pane_rows(options: Options) -> list[Row]:
    program = shutil.which("chromium")
    if program is None:
        raise Missing("no chromium")
    seconds = options.size(SECONDS, 2)
    busy, long = asyncio.run(measured(options.place / "pane", program, seconds))
    name = f"page: {AGENTS} agents, {PER_SECOND} deltas/s each, {seconds} s"
    return [
        bounded(f"{name}: CPU of its main thread", [busy], Bound(6, 12, "s")),
        bounded(f"{name}: tasks of over 50 ms", [long], Bound(5, 20, "tasks")),
    ]


async def measured(place: Path, program: str, seconds: int) -> tuple[float, float]:
    """Seconds that the main thread was busy, and its long tasks, while all of them wrote."""
    project = await asyncio.to_thread(varied, place / "project")
    model = f"text-{PER_SECOND}-for-{seconds}"
    async with (
        stand_in(place / "data", project, model=model, slots=AGENTS) as bench,
        async_playwright() as playwright,
    ):
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        try:
            return await watched(page, bench, seconds)
        finally:
            await browser.close()


def varied(folder: Path) -> Path:
    """A repository that a large review needs more than AGENTS agents for."""
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / "schema.sql").write_text("create table accounts (id integer);\n")
    return tree(folder)


async def watched(page: Page, bench: Bench, seconds: int) -> tuple[float, float]:
    await page.add_init_script(LONG_TASKS)
    cdp = await page.context.new_cdp_session(page)
    await cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
    async with Client(bench.url, bench.token) as client:
        run_id = await launched(client, "/code-review large")
        await page.goto(f"{bench.url}/#token={bench.token}&run={run_id}")
        writing = page.locator("#agents article", has=page.locator(".text"))
        await expect(writing).to_have_count(AGENTS, timeout=PATIENCE * 1000)
        before, tasks = await busy(cdp), await long_tasks(page)
        await asyncio.sleep(seconds - 1)
        after, more = await busy(cdp), await long_tasks(page)
        shown = await writing.evaluate_all("cards => cards.map((it) => it.textContent.length)")
        await client.post(f"/api/runs/{run_id}/cancel", {})
    assert min(shown) > PER_SECOND, shown
    return after - before, more - tasks


async def busy(cdp: CDPSession) -> float:
    """Seconds of tasks of the page's main thread so far."""
    metrics = (await cdp.send("Performance.getMetrics"))["metrics"]
    return next(float(it["value"]) for it in metrics if it["name"] == "TaskDuration")


async def long_tasks(page: Page) -> float:
    return float(await page.evaluate("window.longTasks.length"))
