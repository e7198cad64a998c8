"""client.js in Chromium: the scenarios in which a browser's own socket has a say."""

import shutil

import pytest
from playwright.async_api import async_playwright

from tests.browser.chromium import FLAGS
from tests.clients.runners import PageRunner
from tests.clients.scenarios import BY_NAME
from tests.clients.stage import plays

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

NAMES = [
    "frames are given once and in order",
    "a hello that comes late is waited for, and asked is once",
    "nothing is asked before the ticket is answered",
    "a cut connection comes back to where it was",
    "a launch whose ack is lost is the same launch again",
    "every close code that says come back",
    "silence is the end of a connection",
    "a frame may be huge",
    "what does not speak podium.v1 is nobody",
    "a server that does not let in is asked again, more and more slowly",
    "who has no credentials left is signed out",
    "who is not let in for want of credentials is signed out",
    "who has no ticket and is not signed in is told at once",
]


async def test_client_js_in_a_page() -> None:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        for name in NAMES:
            runner = PageRunner(await browser.new_page())
            await plays(runner, BY_NAME[name], pages=PageRunner.PAGES)
        await browser.close()
