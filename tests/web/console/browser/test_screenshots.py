"""``make screenshots`` writes a picture of every page: tried with one kind of picture, of a small screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.chromium import CHROMIUM
from tests.web.console.browser import screenshots

WAIT_MILLISECONDS = 120_000.0  # a deadline, where a machine does much else
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def bound_factories() -> None:
    """The command makes a database of its own, with its rows."""


@pytest.fixture(autouse=True)
def patient() -> Iterator[None]:
    expect.set_options(timeout=WAIT_MILLISECONDS)
    yield
    expect.set_options(timeout=5_000.0)


def test_a_picture_of_every_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    monkeypatch.setattr(screenshots, "KINDS", {"small": screenshots.KINDS["small"]})
    folder = tmp_path / "pictures"
    screenshots.main(folder)
    pictures = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert f"{len(pictures)} pictures in {folder}" in capsys.readouterr().out
    assert {"now-show-small.png", "calls-show-small.png", "cards-show-small.png"} <= set(pictures)
    assert len(pictures) > 20
    for name, content in pictures.items():
        assert content.startswith(PNG), name
        assert int.from_bytes(content[16:20]) == screenshots.SMALL["width"], name
