"""How a page is made: Jinja with every value escaped, texts by gettext, times in the viewer's zone, states as words in chips."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from flask import Flask, g, render_template, request, url_for
from jinja2 import StrictUndefined, pass_context

from cardsync.store.console.operators import Role
from cardsync.web.console import plots, sessions
from cardsync.web.console.formats import day, number, percent, when
from cardsync.web.console.guard import READS
from cardsync.web.console.navigation import SECTIONS
from cardsync.web.console.notices import NOTICES
from cardsync.web.console.roles import ROUTES
from cardsync.web.console.site import Site
from cardsync.web.console.states import chip
from cardsync.web.console.words import LANGUAGES, _, chosen

STATIC: Final = Path(__file__).with_name("static")


def register(app: Flask) -> None:
    """Teach Jinja what pages need."""
    environment = app.jinja_env
    environment.undefined = StrictUndefined
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.add_extension("jinja2.ext.i18n")
    environment.install_gettext_callables(  # type: ignore[attr-defined]
        lambda text: chosen().gettext(text),
        lambda one, many, number: chosen().ngettext(one, many, number),
        newstyle=True,
    )
    environment.filters.update(
        at_each_use({"when": when, "day": day, "number": number, "percent": percent, "chip": chip, "said": _})
    )
    environment.globals.update(asset=asset, may=may, request_key=request_key, plots=plots, languages=LANGUAGES)
    app.context_processor(_of_page)


def at_each_use(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Filters that Jinja calls for each page.

    Of a constant, as in ``"open"|chip``, it would keep the result from when the template was compiled, in the language of
    that page's viewer; it does not where a filter takes the context.
    """

    def with_context(filter_: Callable[..., Any]) -> Callable[..., Any]:
        return pass_context(lambda _context, *given, **named: filter_(*given, **named))

    return {name: with_context(filter_) for name, filter_ in filters.items()}


def _of_page() -> dict[str, Any]:
    """What each template may use."""
    operator = g.get("operator")
    site = Site.here()
    return {
        "operator": operator,
        "preferences": g.preferences,
        "sections": SECTIONS,
        "issuer": site.settings.oidc_issuer,
        "read_only": site.settings.console_read_only,
        "form_token": sessions.form_token() if operator is not None else "",
        "notice": NOTICES.get(request.args.get("done", "")) if request.method in READS else None,
    }


def page(template: str, *, status: int = 200, **values: Any) -> tuple[str, int]:
    """A whole page."""
    return render_template(template, **values), status


def may(endpoint: str) -> bool:
    """Tell whether the operator may use that route now: pages offer nothing that would be refused."""
    rule = ROUTES[endpoint]
    operator = g.get("operator")
    if rule.writes and Site.here().settings.console_read_only:
        return False
    return rule.role is None or (operator is not None and operator.may(rule.role))


def shows_personal_facts() -> bool:
    """Whether the operator may see names and masked numbers."""
    needed: Role = "support"
    operator = g.get("operator")
    return operator is not None and operator.may(needed)


def request_key() -> str:
    """A new idempotency key for a form: sent twice, it is carried out once."""
    key = str(uuid.uuid4())
    g.setdefault("request_keys", []).append(key)
    return key


@cache
def _hash_of(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:16]


def asset(name: str) -> str:
    """The address of an asset, with a hash of its content: it may be kept for good."""
    return url_for("static", filename=name, v=_hash_of(name))
