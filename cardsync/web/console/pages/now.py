"""Now: first what needs a person, each with its next step; then how the registry does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from flask import Blueprint, current_app, url_for
from flask.typing import ResponseReturnValue
from markupsafe import Markup, escape

from cardsync.core.call_budget import LANES
from cardsync.store import audits
from cardsync.store.audits import Drift
from cardsync.store.calls import gate, ledger
from cardsync.store.calls.gate import GateState, OperatorPause
from cardsync.store.console import overview
from cardsync.store.console.overview import COUNTED_MAX, Ages, Hour, Needs
from cardsync.store.deliveries import endpoints
from cardsync.store.deliveries.endpoints import Lag
from cardsync.web.cached_check import CachedCheck
from cardsync.web.console import regions, rendering
from cardsync.web.console.formats import when
from cardsync.web.console.pages.flows import set_aside
from cardsync.web.console.shown import PAUSES, typed
from cardsync.web.console.site import Site
from cardsync.web.console.words import N_, _, ngettext

blueprint: Final = Blueprint("now", __name__)

# What Prometheus alerts of too (deploy/prometheus/rules.yaml): a quarter of an hour, or what an endpoint takes in one.
BEHIND_SECONDS: Final = 900.0
BEHIND_CHANGES: Final = 10_000
KEEP_SECONDS: Final = 15.0  # a plot of a day is no older than that, for all viewers together
_KEY: Final = "cardsync.console.figures"


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that needs a person: what it is, and what to do next."""

    tone: Literal["bad", "busy"]
    what: str | Markup
    next_step: str
    leads_to: str


@dataclass(frozen=True, slots=True)
class _Figures:
    """What all viewers share."""

    hours: CachedCheck[list[Hour]]
    ages: CachedCheck[Ages]
    drift: CachedCheck[Drift]
    spool: CachedCheck[int]


@blueprint.get("/")
def show() -> ResponseReturnValue:
    """The first page."""
    figures = _figures()
    set_aside = regions.read_shared(figures.spool)
    hours, ages, drift = (
        regions.read_shared(figures.hours),
        regions.read_shared(figures.ages),
        regions.read_shared(figures.drift),
    )
    needs = regions.read(overview.needs)
    state = regions.read(gate.state)
    spent = regions.read(ledger.spent_by_lane)
    lags = regions.read(endpoints.lags)
    unknown = {one.missing: one for one in (needs, state, lags, set_aside) if one.value is None}
    attention = (
        []
        if needs.value is None or state.value is None
        else [
            *what_needs_a_person(needs.value, state.value),
            *_of_endpoints(lags.value or []),
            *_of_spool(set_aside.value or 0),
        ]
    )
    return rendering.page(
        "now.html",
        needs=needs,
        state=state,
        attention=attention,
        unknown=list(unknown.values()),  # nothing is said to be in order then
        spent=spent,
        lanes=LANES,
        allowance=Site.here().settings.ottu_daily_calls,
        hours=hours,
        ages=ages,
        age_names=AGE_NAMES,
        drift=drift,
        counted_max=COUNTED_MAX,
    )


AGE_NAMES: Final = (
    N_("within an hour"),
    N_("within six hours"),
    N_("within a day"),
    N_("within three days"),
    N_("within a week"),
    N_("within four weeks"),
    N_("longer ago"),
)


def _figures() -> _Figures:
    """The figures that are kept for all viewers of this console."""
    found: _Figures | None = current_app.extensions.get(_KEY)
    if found is None:
        engine = Site.here().engine
        found = current_app.extensions[_KEY] = _Figures(
            regions.kept(engine, overview.hours, keep_seconds=KEEP_SECONDS),
            regions.kept(engine, overview.ages, keep_seconds=KEEP_SECONDS),
            regions.kept(engine, audits.summary, keep_seconds=KEEP_SECONDS),
            CachedCheck(partial(_bad_files, Site.here().settings.data_dir), keep_seconds=KEEP_SECONDS),
        )
    return found


def _bad_files(data_dir: Path) -> int:
    return len(set_aside(data_dir))


def what_needs_a_person(needs: Needs, state: GateState) -> Iterator[Attention]:
    """The worst first: what stops everything, what stops removals, then what waits by itself."""
    if state.operator_pause is not None:
        yield Attention(
            "bad",
            paused_by_operator(state.operator_pause),
            _("Ask why, and resume them there. Until then nothing is asked of Ottu, and no card is deleted."),
            url_for("calls.show"),
        )
    if state.breaker == "credentials":
        yield Attention(
            "bad",
            _("Ottu refuses our credentials, so no call is made."),
            _("Set OTTU_API_KEY to a valid key and restart the workers. Calls go on by themselves then."),
            url_for("calls.show"),
        )
    elif state.reason not in (None, "operator"):
        yield Attention(
            "busy",
            _("Calls to Ottu are paused: %(why)s.", why=_(PAUSES[state.reason])),
            _("They go on by themselves. If this lasts, ask Ottu."),
            url_for("calls.show"),
        )
    if state.brake_engaged_at is not None:
        yield Attention(
            "bad",
            _("The brake on removals is engaged: many lists lack cards that they should have."),
            _("Compare some of the held customers with Ottu's dashboard, then release it."),
            url_for("brake.show"),
        )
    yield from _counted(needs)


def paused_by_operator(pause: OperatorPause) -> Markup:
    """Who paused all calls, since when, and why."""
    said = escape(_("%(who)s paused all calls to Ottu, since %(when)s"))
    return Markup(": ").join(
        [said % {"who": pause.by, "when": when(pause.since)}, *([] if pause.why is None else [typed(pause.why)])]
    )


def _counted(needs: Needs) -> Iterator[Attention]:
    rows = (
        (
            needs.failed_events,
            ngettext("%(num)s notification failed.", "%(num)s notifications failed.", needs.failed_events),
            _("Read why, remove the cause, and replay them."),
            url_for("notifications.show", status="failed"),
        ),
        (
            needs.blocked_deletions,
            ngettext("%(num)s deletion is blocked.", "%(num)s deletions are blocked.", needs.blocked_deletions),
            _("The card serves an agreement: another card must take it over first. Then replay."),
            url_for("deletions.show", state="blocked"),
        ),
        (
            needs.failed_deletions,
            ngettext("%(num)s deletion failed.", "%(num)s deletions failed.", needs.failed_deletions),
            _("24 hours of tries are over. Read why, and replay."),
            url_for("deletions.show", state="failed"),
        ),
        (
            needs.held_deletions,
            ngettext("%(num)s deletion is held.", "%(num)s deletions are held.", needs.held_deletions),
            _("One asker asked for more than one may in a day. Ask who it is, then release or cancel."),
            url_for("brake.show"),
        ),
        (
            needs.late_erasures,
            ngettext("%(num)s erasure does not go on.", "%(num)s erasures do not go on.", needs.late_erasures),
            _("Its page says which card is in the way. Remove the cause, and replay that card's deletion there."),
            url_for("deletions.show_erasures", state="stuck"),
        ),
        (
            needs.odd_customers,
            ngettext(
                "The list of %(num)s customer is odd.", "The lists of %(num)s customers are odd.", needs.odd_customers
            ),
            _(
                "What is certain in such a list was believed. Ask Ottu about it: its page says what is odd, of which customers."
            ),
            url_for("customers.odd"),
        ),
    )
    for count, what, next_step, leads_to in rows:
        if count:
            yield Attention("bad", what, next_step, leads_to)


def _of_endpoints(lags: Sequence[Lag]) -> Iterator[Attention]:
    for one in lags:
        if not one.is_enabled:
            what = _("The endpoint %(name)s is disabled, and nothing is sent to it.", name=one.name)
        elif (one.oldest_pending_seconds or 0) > BEHIND_SECONDS or (one.behind or 0) > BEHIND_CHANGES:
            what = _("The endpoint %(name)s is behind.", name=one.name)
        elif one.is_circuit_open:
            what = _("The endpoint %(name)s does not take what it is sent.", name=one.name)
        else:
            continue
        yield Attention(
            "busy",
            what,
            _("Send it a test, and read its last error. What waits is sent by itself once it answers."),
            url_for("flows.show_endpoints"),
        )


def _of_spool(bad: int) -> Iterator[Attention]:
    if bad:
        yield Attention(
            "bad",
            ngettext("%(num)s file of the spool is set aside.", "%(num)s files of the spool are set aside.", bad),
            _(
                "It holds notifications that could not be stored. The page says why, and how they are restored or dropped."
            ),
            url_for("flows.show_spool"),
        )
