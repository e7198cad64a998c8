"""The pane of one agent's output: all of a text in order, the end in sight, and no more than is
kept, however much comes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser.chromium import page
from tests.server.harness import TOKEN, house

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

KEPT, BLOCK = 20_000, 1_000
BEGIN = """async () => {
    const { Output } = await import("./output.js");
    const node = document.createElement("div");
    node.className = "output";
    document.body.append(node);
    window.output = new Output(node);
    window.say = (text, channel = "text") => window.output.say(channel, text);
}"""
DRAWN = """() => new Promise((drawn) => {
    window.output.replace({ replaceWith: () => requestAnimationFrame(drawn) }, null);
})"""
"""Whatever was said before it is on the page."""
BOTTOM = "output.node.scrollHeight - output.node.scrollTop - output.node.clientHeight"


@asynccontextmanager
async def output(place: Path) -> AsyncIterator[Page]:
    async with house(place) as home, page() as view:
        await view.goto(f"{home.url}/#token={TOKEN}")
        await view.evaluate(BEGIN)
        yield view


async def said(view: Page, script: str) -> Any:
    await view.evaluate(script)
    await view.evaluate(DRAWN)
    return await view.evaluate("output.node.innerText")


async def test_pieces_are_one_text_with_its_lines(tmp_path: Path) -> None:
    async with output(tmp_path) as view:
        lines = [f"{number:03} words to read" if number % 7 else "" for number in range(400)]
        pieces = [f"{line}\n" for line in lines]
        for start in range(0, len(pieces), 100):
            await said(view, f"{pieces[start : start + 100]}.forEach((it) => say(it))")
        text = "".join(pieces)
        assert len(text) < KEPT
        assert (await said(view, "say('end')")) == text + "end"
        assert await view.locator(".text").count() > 1, "a long text has more than one block"


async def test_a_channel_begins_anew_and_markup_is_text(tmp_path: Path) -> None:
    async with output(tmp_path) as view:
        shown = await said(view, "say('hm', 'thinking'); say('<b>', 'text'); say('yes')")
        assert shown.split() == ["hm", "<b>yes"]
        assert await view.locator(".text.thinking").inner_text() == "hm"
        assert await view.locator("b").count() == 0


@pytest.mark.parametrize("end", ["\\n", " "], ids=["lines", "no lines"])
async def test_no_more_is_kept_than_is_said_to_be(tmp_path: Path, end: str) -> None:
    async with output(tmp_path) as view:
        for turn in range(20):
            script = f"for (let n = 0; n < 500; n++) say(`{turn:02} and ${{n}}{end}`)"
            shown = await said(view, script)
        kept = await view.evaluate("output.node.textContent.length")
        assert KEPT // 2 <= kept <= KEPT
        assert shown.strip().endswith("19 and 499")
        assert await view.locator(".text").count() <= KEPT // BLOCK + 1


async def test_a_reader_who_has_scrolled_away_is_left_alone(tmp_path: Path) -> None:
    many = "for (let n = 0; n < 100; n++) say(`line ${n}\\n`)"
    async with output(tmp_path) as view:
        await said(view, many)
        assert await view.evaluate(BOTTOM) < 2, "at the end until somebody scrolls"
        await view.evaluate("output.node.scrollTop = 0")
        await said(view, many)
        assert await view.evaluate("output.node.scrollTop") == 0
        await view.evaluate("output.node.scrollTop = 1e6")
        await said(view, many)
        assert await view.evaluate(BOTTOM) < 2, "whoever comes back follows again"


async def test_a_page_that_nobody_sees_lets_nothing_pile_up(tmp_path: Path) -> None:
    turns = 1_000
    script = f"""() => {{
        window.requestAnimationFrame = () => 0;
        for (let n = 0; n < {turns}; n++) {{
            say(`${{n}} `.padEnd(100));
            output.add(document.createElement("hr"));
        }}
    }}"""
    async with output(tmp_path) as view:
        await view.evaluate(script)
        assert await view.locator("hr").count() > turns - 100, "it waits for no frame"
        assert KEPT // 2 <= await view.evaluate("output.node.textContent.length") <= KEPT
