"""Debian's Chromium, driven by Playwright: for tests and for the pictures of the console."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

# Debian's; Playwright would download a browser of its own.
CHROMIUM: Final = Path("/usr/bin/chromium")
# Root, as CI is, has no sandbox in Chromium; a container's /dev/shm is small.
CHROMIUM_ARGUMENTS: Final = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")

LAUNCH_MILLISECONDS: Final = 180_000  # a deadline: a browser starts a dozen processes
EXPECT_MILLISECONDS: Final = (
    120_000  # a deadline, for what ``expect`` is to see: its own five seconds are few on a busy machine
)
TABS_MAX: Final = 150  # more than any page of the console has things to reach


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser until the block ends."""
    expect.set_options(timeout=EXPECT_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS), timeout=LAUNCH_MILLISECONDS
        )
        try:
            yield browser
        finally:
            browser.close()


class Keyboard:
    """A person without a mouse: goes through the page with the tab key, types, and presses keys."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def reach(self, what: Locator) -> None:
        """Press the tab key until this has the focus."""
        for _ in range(TABS_MAX):
            self._page.keyboard.press("Tab")
            if what.evaluate("(one) => one === document.activeElement"):
                return
        raise AssertionError(f"the tab key does not reach {what}")

    def press(self, what: Locator, key: str = "Enter") -> None:
        """Reach a link or a button, and press it."""
        self.reach(what)
        self._page.keyboard.press(key)

    def write(self, what: Locator, text: str) -> None:
        """Reach a field, and type; the tab key selects what stands in it."""
        self.reach(what)
        self._page.keyboard.type(text)
