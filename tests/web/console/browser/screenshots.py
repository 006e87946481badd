"""``make screenshots``: a picture of every page of the console, in light and dark, small, and in Arabic.

Usage: python -m tests.web.console.browser.screenshots [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, ViewportSize, expect

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from tests.chromium import launched
from tests.logins import ProcessLogins
from tests.web.console.browser.served import ServedConsole, served_console

FOLDER: Final = Path(".cardsync/screenshots")
WIDE: Final[ViewportSize] = {"width": 1280, "height": 900}
SMALL: Final[ViewportSize] = {"width": 375, "height": 800}
# name -> size, theme, language
KINDS: Final = {
    "light": (WIDE, "light", "en"),
    "dark": (WIDE, "dark", "en"),
    "small": (SMALL, "light", "en"),
    "arabic": (WIDE, "light", "ar"),
}


def main(folder: Path) -> None:
    """Write the pictures, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    with _console() as console, launched() as browser:
        for name, (size, theme, language) in KINDS.items():
            _shoot(browser, console, folder, name, size, {"theme": theme, "language": language})
    sys.stdout.write(f"{len(list(folder.glob('*.png')))} pictures in {folder}\n")


def _shoot(
    browser: Browser, console: ServedConsole, folder: Path, name: str, size: ViewportSize, chosen: dict[str, str]
) -> None:
    context = browser.new_context(viewport=size)
    for preference, value in {**chosen, "zone": "Asia/Kuwait", "refresh": "0"}.items():
        context.add_cookies([{"name": f"console-{preference}", "value": value, "url": console.base}])
    page = context.new_page()
    page.goto(console.link())
    page.wait_for_url(f"{console.base}/")
    for endpoint, path in console.paths().items():
        page.goto(console.base + path)
        expect(page.locator("[data-soon]")).to_have_count(0)
        page.screenshot(path=folder / f"{endpoint.replace('.', '-')}-{name}.png", full_page=True)
    context.close()


@contextmanager
def _console() -> Iterator[ServedConsole]:
    with tempfile.TemporaryDirectory(prefix="cardsync-screenshots-") as made:
        folder = Path(made)
        folder.chmod(0o711)  # run by root, PostgreSQL is another user, and must get through to its own folder
        server = EmbeddedPostgres(folder / "postgres", durable=False)
        server.start()
        try:
            server.create_database("screenshots")
            url = server.url_for("screenshots")
            db.upgrade(url)
            with served_console(server, ProcessLogins(server), url, folder / "data") as console:
                yield console
        finally:
            server.remove()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
