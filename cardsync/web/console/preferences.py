"""What a viewer prefers: language, time zone, colours, refreshing, keys. A cookie each, which is checked at each read.

They name no person. The script sets the time zone once, from the browser's; without it a viewer chooses one, or sees UTC.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from babel import negotiate_locale
from flask import Flask, Response, g, request

from cardsync.web.console.site import Site
from cardsync.web.console.words import LANGUAGES

THEMES: Final = ("auto", "light", "dark")
KEYS: Final = ("on", "off")  # whether single keys lead somewhere; who dictates or types by other means turns them off
REFRESHES: Final = ("0", "2", "5", "15", "60")  # seconds; 0 is off
PREFIX: Final = "console-"
KEEP_SECONDS: Final = 31_536_000


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a viewer chose, or what is assumed."""

    language: str = "en"
    zone: str = "UTC"
    theme: str = "auto"
    refresh: str = "15"
    keys: str = "on"

    @property
    def direction(self) -> str:
        """How the language is written, as HTML says it."""
        return "rtl" if self.language == "ar" else "ltr"

    @property
    def zone_info(self) -> ZoneInfo:
        """The time zone, ready to use."""
        return ZoneInfo(self.zone)


NAMES: Final = tuple(asdict(Preferences()))


@cache
def zones() -> tuple[str, ...]:
    """The names of all time zones that this machine knows, regions before their cities."""
    return ("UTC", *sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/")))


def register(app: Flask) -> None:
    """Read the preferences of each request."""

    @app.before_request
    def read() -> None:
        g.preferences = _read()


def _read() -> Preferences:
    given = {name: request.cookies.get(f"{PREFIX}{name}", "") for name in NAMES}
    return chosen(given, language=_asked_language())


def chosen(given: dict[str, str], *, language: str = "en") -> Preferences:
    """Preferences from what was sent; what is no choice is what is assumed."""
    usual = Preferences(language=language)
    return Preferences(
        language=given["language"] if given["language"] in LANGUAGES else usual.language,
        zone=given["zone"] if given["zone"] in zones() else usual.zone,
        theme=given["theme"] if given["theme"] in THEMES else usual.theme,
        refresh=given["refresh"] if given["refresh"] in REFRESHES else usual.refresh,
        keys=given["keys"] if given["keys"] in KEYS else usual.keys,
    )


def keep(response: Response, preferences: Preferences) -> None:
    """Give the browser a cookie for each choice. The script reads two of them, so they are not HttpOnly."""
    for name, value in asdict(preferences).items():
        response.set_cookie(
            f"{PREFIX}{name}",
            value,
            max_age=KEEP_SECONDS,
            path="/",
            secure=Site.here().is_secure,
            httponly=False,
            samesite="Strict",
        )


def _asked_language() -> str:
    """The first language of the browser's that we have."""
    wanted = [one.replace("-", "_") for one, _quality in request.accept_languages]
    short = [one.partition("_")[0] for one in wanted]
    return negotiate_locale(short, list(LANGUAGES)) or "en"
