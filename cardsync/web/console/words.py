"""Languages of the console: gettext catalogues, read from their text form at the start.

Mark a text with ``_`` where it is shown, with ``N_`` in a table that is shown later. ``make translations`` collects
them.
"""

from __future__ import annotations

import gettext as standard
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from babel import Locale
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from flask import g, has_request_context

FOLDER: Final = Path(__file__).with_name("translations")
LANGUAGES: Final[Mapping[str, str]] = {"en": "English", "ar": "العربية"}


@cache
def catalogue(language: str) -> standard.NullTranslations:
    """The texts of a language; English is what stands in the code."""
    path = FOLDER / language / "LC_MESSAGES" / "messages.po"
    if not path.exists():
        return standard.NullTranslations()
    with path.open("rb") as file:
        found = read_po(file, locale=language)
    compiled = io.BytesIO()
    write_mo(compiled, found)
    compiled.seek(0)
    return standard.GNUTranslations(compiled)


@cache
def locale(language: str) -> Locale:
    """How a language writes dates and numbers."""
    return Locale.parse("en_GB" if language == "en" else language)


def chosen() -> standard.NullTranslations:
    """The texts of the request that is answered now."""
    return catalogue(g.preferences.language if has_request_context() and "preferences" in g else "en")


def _(text: str, **values: Any) -> str:
    """A text in the viewer's language, with ``%(name)s`` filled in."""
    said = chosen().gettext(text)
    return said % values if values else said


def ngettext(one: str, many: str, number: int, **values: Any) -> str:
    """A text with a number, in the viewer's language."""
    return chosen().ngettext(one, many, number) % {"num": number, **values}


def N_(text: str) -> str:  # noqa: N802  (gettext's usual name)
    """Mark a text that is translated where it is shown."""
    return text
