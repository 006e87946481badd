"""Every text of the console in every language: ``make translations`` collects what is new."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.pofile import read_po
from markupsafe import escape

from cardsync.web.console.navigation import SECTIONS
from cardsync.web.console.notices import NOTICES
from cardsync.web.console.words import FOLDER, LANGUAGES

CARDSYNC = Path(__file__).parents[3] / "cardsync"
METHODS = [("**.py", "python"), ("**/templates/**.html", "jinja2")]
PLACEHOLDER = re.compile(r"%\(\w+\)s|%%")
TRANSLATED = [language for language in LANGUAGES if language != "en"]


@pytest.fixture(autouse=True)
def bound_factories():
    """These tests read files."""


@pytest.fixture(scope="module")
def texts():
    """What is marked in the code and the templates."""
    keywords = {**DEFAULT_KEYWORDS, "N_": None}
    return {
        found[2]
        for folder in (CARDSYNC / "core", CARDSYNC / "web" / "console")
        for found in extract_from_dir(folder, method_map=METHODS, keywords=keywords)
    }


def catalogue(language: str) -> Catalog:
    with (FOLDER / language / "LC_MESSAGES" / "messages.po").open("rb") as file:
        return read_po(file, locale=language, abort_invalid=True)


@pytest.mark.parametrize("language", TRANSLATED)
def test_no_text_of_the_console_is_untranslated_and_none_is_left_over(language, texts):
    found = {message.id: message for message in catalogue(language) if message.id}
    assert len(texts) > 300
    assert set(found) == texts, "run make translations, and translate what is new"
    for message in found.values():
        assert message.string, message.id
        assert all(message.string), message.id
        assert not message.fuzzy, message.id


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_fills_in_what_the_text_fills_in(language):
    for message in catalogue(language):
        if message.id and isinstance(message.id, str):
            assert sorted(PLACEHOLDER.findall(message.string)) == sorted(PLACEHOLDER.findall(message.id)), message.id


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_number_has_all_forms_of_its_language(language):
    told = catalogue(language)
    assert all(len(message.string) == told.num_plurals for message in told if isinstance(message.id, tuple))


def test_a_page_is_shown_in_the_language_that_the_viewer_prefers(console):
    page = console.test_client().get("/sign-in", headers={"Accept-Language": "ar-KW,ar;q=0.9,en;q=0.5"}).text
    assert '<html lang="ar" dir="rtl"' in page
    assert "تسجيل الدخول إلى cardsync" in page


def test_the_frame_of_a_page_is_in_the_language_of_the_viewer(signed_in):
    """Its navigation, the ages that a plot shows, and what an action left to say."""
    browser, told = signed_in("admin"), catalogue("ar")
    browser.client.set_cookie("console-language", "ar", domain="127.0.0.1")
    page = browser.get("/?done=look_now").text
    assert len(SECTIONS) > 10
    for text in (*(section.title for section in SECTIONS), NOTICES["look_now"]):
        assert str(escape(told[text].string)) in page, text
        assert f">{escape(text)}<" not in page, text


def test_a_state_that_stands_in_a_template_is_in_the_language_of_each_viewer(console, signed_in):
    browser = signed_in("viewer")
    for language, word in (("en", "open"), ("ar", "مفتوح"), ("en", "open")):
        browser.client.set_cookie("console-language", language, domain="127.0.0.1")
        assert f"</span> {word}</span>" in browser.get("/").text


def test_a_refusal_is_said_in_the_language_of_the_viewer(signed_in):
    browser = signed_in("admin")
    browser.client.set_cookie("console-language", "ar", domain="127.0.0.1")
    assert browser.post("/calls/pause", word="PAUSE").status_code == 303
    page = browser.post("/calls/pause", word="PAUSE").text
    assert "calls are paused already" not in page
    assert catalogue("ar").get("calls are paused already").string in page
