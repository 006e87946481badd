"""Calls to Ottu: the gate, the breaker, the pace, the lanes, and what another budget would change."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, current_app, request
from flask.typing import ResponseReturnValue

from cardsync.core import change_rate, planner
from cardsync.core.call_budget import LANES, SECONDS_A_DAY, allowed, sweeps_a_day
from cardsync.core.planner import Forecast
from cardsync.store.calls import gate, ledger
from cardsync.store.console import lists
from cardsync.store.console.lists import Cadences
from cardsync.web.cached_check import CachedCheck
from cardsync.web.console import regions, rendering
from cardsync.web.console.site import Site

blueprint: Final = Blueprint("calls", __name__)

BUDGET_MAX: Final = 100_000_000
KEEP_SECONDS: Final = 60.0  # habits change over days; the sample reads thousands of rows
_KEY: Final = "cardsync.console.cadences"


@blueprint.get("/calls")
def show() -> ResponseReturnValue:
    """Whether calls go on, what they were for, and a forecast for today's budget and for another one."""
    settings = Site.here().settings
    budget = request.args.get("budget", settings.ottu_daily_calls * 2, type=int)
    budget = min(max(1, budget), BUDGET_MAX)
    spent = regions.read(ledger.spent_by_lane)
    cadences = regions.read_shared(_cadences())
    urgent = 0 if spent.value is None else sum(number for lane, number in spent.value.items() if lane != "sweep")
    forecasts = {
        calls: _forecast(cadences.value, calls, urgent, settings.look_again_seconds / SECONDS_A_DAY)
        for calls in sorted({settings.ottu_daily_calls, budget})
        if cadences.value is not None and cadences.value.customers
    }
    return rendering.page(
        "calls.html",
        state=regions.read(gate.state),
        spent=spent,
        lanes=LANES,
        allowance=settings.ottu_daily_calls,
        allowed={lane: allowed(lane, settings.ottu_daily_calls) for lane in LANES},
        cadences=cadences,
        forecasts=forecasts,
        budget=budget,
    )


def _cadences() -> CachedCheck[Cadences]:
    """How often customers change, of a sample, once for all viewers of this console."""
    found: CachedCheck[Cadences] | None = current_app.extensions.get(_KEY)
    if found is None:
        found = regions.kept(Site.here().engine, lists.cadences, keep_seconds=KEEP_SECONDS)
        current_app.extensions[_KEY] = found
    return found


def _forecast(cadences: Cadences, daily_calls: int, urgent: int, shortest_days: float) -> Forecast:
    """The forecast, as ``cardsync plan`` makes it, from a sample of the customers."""
    counts = [cadences.by_cadence.get(cadence, 0.0) for cadence in range(change_rate.CADENCES)]
    counts[change_rate.NEWCOMERS] += cadences.by_cadence.get(-1, 0.0)
    routine = max(1.0, sweeps_a_day(daily_calls, urgent))
    return planner.forecast(planner.of_cadences(counts), routine, shortest_days=shortest_days)
