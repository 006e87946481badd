"""What ``cardsync doctor`` checks of Ottu: whether calls may be made, what lists were like, and one call that it makes itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Engine

from cardsync import logs
from cardsync.cli import console
from cardsync.cli.doctor.check import Check
from cardsync.core import oddities
from cardsync.errors import BudgetSpent, CallsPaused, CardsyncError, CredentialsRefused, OttuRejected
from cardsync.settings import Settings
from cardsync.store import audits
from cardsync.store.calls.gate import GateState, Reason
from cardsync.store.ops import odd_lists

# Surely fewer than this served right: more than a long round of sweeps leaves behind. 5,000,000 customers are seen every 70 days;
# if one in a hundred deletes a card a month, half a round later 1.2 % are wrong.
RIGHT_SHARE: Final = 0.98
STOPS_WORK: Final = frozenset(("credentials", "down", "operator"))
ADVICE: Final[dict[Reason, str]] = {
    "credentials": "make a new key in Ottu's dashboard, set OTTU_API_KEY and restart the workers; calls go on within a minute",
    "down": "see Ottu's status page, and this host's way to it; calls go on within a minute after Ottu does",
    "throttled": "it opens by itself; see who else uses this API key",
    "operator": "ask why, and resume them in the console, on its page Calls",
}

_WRONG_ADDRESS: Final = "see that OTTU_MERCHANT_ID or OTTU_BASE_URL is right"
_REJECTED: Final = {
    405: "this address takes no POST for card lists: see that it is Ottu's instance itself, not a page or a proxy before it, and "
    "that the instance offers User Cards (OTTU_CARDS_API=unavailable where it does not)",
}


def calls(state: GateState) -> Iterator[Check]:
    """Say it if calls stand still or are slowed down."""
    if state.paused_because is not None:
        found = f"no calls to Ottu {_until(state)}: {state.paused_because}"
        stops_work = state.reason in STOPS_WORK
        yield Check("calls", "failed" if stops_work else "warning", found, ADVICE[state.reason or "throttled"])
    if state.calls_per_second is not None:
        found = f"{state.calls_per_second:.1f} calls a second at the most, after a 429; routine looks stand back"
        yield Check("pace", "warning", found, "it grows back by itself; see who else uses this API key")


def _until(state: GateState) -> str:
    """Until when calls are paused, in words."""
    pause = state.operator_pause
    if pause is not None:
        return f"since {console.rfc3339(pause.since)}, when {console.printable(pause.by)} paused them"
    return "until one succeeds" if state.paused_until is None else f"until {console.rfc3339(state.paused_until)}"


def odd(engine: Engine) -> Iterator[Check]:
    """Customers whose last list had odd entries; nothing where there are none."""
    with engine.connect() as connection:
        found = odd_lists.summary(connection)
    if not found.customers:
        return
    said = "; ".join(f"{oddities.said([oddity])}: {count}" for oddity, count in found.by_oddity.items())
    many = f"more than {found.customers - 1}" if found.customers == odd_lists.COUNTED_MAX else f"{found.customers}"
    example = "" if found.example is None else f"; cardsync explain {found.example} shows one"
    advice = f"what is certain is believed, other cards are kept; tell Ottu's support{example}"
    yield Check("odd lists", "warning", f"the last list of {many} customers was odd: {said}", advice)


def drift(engine: Engine, loaded: Settings) -> Check:
    """How many customers' cards are right, of those audited lately; a warning where chance alone does not explain it."""
    if loaded.ottu_cards_api == "unavailable":
        return Check("drift", "skipped", "no list here to compare with")
    with engine.connect() as connection:
        found = audits.summary(connection)
    share = found.interval
    if share is None:
        return Check("drift", "skipped", "no customer was audited yet; beat and worker do it now and then")
    said = (
        f"{share.share:.1%} of customers right "
        f"({share.low * 100:.1f}-{share.high:.1%}, {found.sample} audited in {audits.DAYS} days)"
    ).replace("%", " %")
    if share.high >= RIGHT_SHARE:
        return Check("drift", "ok", said)
    causes = ", ".join(f"{cards} {cause}" for cause, cards in found.differences.items() if cards)
    advice = "lost_hint: see that Ottu's notifications arrive; silent_deletion: only more calls find them sooner"
    return Check("drift", "warning", f"{said}; cards: {causes}", advice)


def answers(engine: Engine, loaded: Settings, offline: bool) -> Check:
    """One call to Ottu, unless there is nothing to ask or nothing to ask with."""
    if offline or loaded.ottu_cards_api == "unavailable" or not loaded.ottu_credentials_set:
        why = "not asked" if offline else "no list here" if loaded.ottu_credentials_set else "not set"
        return Check("ottu", "skipped", why)
    try:
        _ask(engine, loaded)
    except (CallsPaused, BudgetSpent) as error:
        return Check("ottu", "warning", f"not asked: {error}")
    except CredentialsRefused as error:
        return Check("ottu", "failed", str(error), "see that OTTU_API_KEY belongs to this instance, and is live")
    except OttuRejected as error:
        return Check("ottu", "failed", str(error), _REJECTED.get(error.status_code, _WRONG_ADDRESS))
    except CardsyncError as error:
        return Check("ottu", "failed", str(error), _WRONG_ADDRESS)
    return Check("ottu", "ok", "takes our credentials and answers with a list")


def _ask(engine: Engine, loaded: Settings) -> None:
    """Ask Ottu once. Raises what went wrong."""
    from cardsync.ottu import OttuClient
    from cardsync.stories.reconcile_now import AskPolicy, ask_once

    logs.configure(
        loaded.model_copy(update={"log_level": "error"}), "cli"
    )  # what is found is printed: a log goes elsewhere
    client = OttuClient(loaded)
    try:
        ask_once(engine, client, AskPolicy(loaded.ottu_daily_calls, loaded.ottu_timeout_s))
    finally:
        client.close()
