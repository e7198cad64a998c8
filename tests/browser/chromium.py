"""Debian's Chromium, driven by Playwright."""

import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, async_playwright, expect

FLAGS = [
    "--no-sandbox",  # Chromium refuses its own sandbox to root, as in CI
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# A busy machine is slow, not wrong; a test has a timeout of its own.
expect.set_options(timeout=30_000)


@asynccontextmanager
async def page(
    *, width: int = 1280, height: int = 900, flags: Sequence[str] = (), expected: str | None = None
) -> AsyncIterator[Page]:
    """An empty page; the test fails on any error that the page reports, but for those that the
    pattern `expected` finds."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    problems: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=[*FLAGS, *flags])
        context = await browser.new_context(viewport={"width": width, "height": height})
        opened = await context.new_page()
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on(
            "console",
            lambda said: problems.append(said.text) if said.type == "error" else None,
        )
        yield opened
        await browser.close()
    assert [it for it in problems if expected is None or not re.search(expected, it)] == []
