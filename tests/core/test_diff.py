"""What is believed of a list: the rules of ``core.diff``, each by name."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.cards import CardFacts, CardStatus, Token
from cardsync.core.deletion import OPEN, LocalDeletion, Phase
from cardsync.core.diff import LocalCard, Observation, Plan, RemoteCard, believable, plan, without_removals
from cardsync.core.oddities import HIDING, ODDITIES, TABLE, Oddity, may_remove, may_remove_by_name, proves_alone, said

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
VISA = CardFacts(brand="VISA", number="**** 0008", agreements=())
CONFIRM_SECONDS = 120.0


def fingerprint(name: str) -> bytes:
    return name.encode().ljust(32, b".")


def remote(name: str, facts: CardFacts = VISA) -> RemoteCard:
    return RemoteCard(fingerprint(name), Token(f"tok-fake-{name}"), facts)


def local(
    name: str,
    status: CardStatus = "active",
    *,
    facts: CardFacts = VISA,
    awaited_no: int | None = None,
    hint_age_seconds: float = 0.0,
) -> LocalCard:
    return LocalCard(
        card_id=uuid.uuid5(uuid.NAMESPACE_OID, name),
        fingerprint=fingerprint(name),
        status=status,
        facts=facts,
        awaited_no=awaited_no,
        awaited_at=None if awaited_no is None else NOON - dt.timedelta(seconds=hint_age_seconds),
    )


def decide(
    *known: LocalCard,
    listed: tuple[RemoteCard, ...] = (),
    number: int = 100,
    allowed: bool = True,
    oddities: tuple[Oddity, ...] = (),
) -> Plan:
    made = plan(known, listed, Observation(number, NOON), confirm_seconds=CONFIRM_SECONDS, oddities=oddities)
    return made if allowed else without_removals(made)


def test_a_card_that_nobody_knew_is_added() -> None:
    assert decide(listed=(remote("a"),)).added == (remote("a"),)


def test_a_card_that_is_as_known_writes_nothing() -> None:
    decided = decide(local("a"), listed=(remote("a"),))
    assert decided.writes == 0
    assert not decided.shown[0].changed


def test_a_card_that_differs_is_updated() -> None:
    decided = decide(local("a"), listed=(remote("a", CardFacts(brand="MASTERCARD", agreements=())),))
    assert decided.shown[0].changed
    assert not decided.shown[0].revive


def test_an_active_card_that_is_not_listed_is_removed() -> None:
    assert decide(local("a")).removed == (local("a").card_id,)


def test_a_list_asked_for_before_the_last_hint_removes_nothing() -> None:
    decided = decide(local("a", awaited_no=101, hint_age_seconds=999), number=100)
    assert decided == Plan()


@pytest.mark.parametrize("status", ["active", "unconfirmed", "removed", "deleting"])
def test_a_hinted_card_that_is_not_listed_yet_is_asked_for_again(status: CardStatus) -> None:
    decided = decide(local("a", status, awaited_no=99, hint_age_seconds=5))
    assert decided.look_again_seconds == pytest.approx(3.0)
    assert decided == Plan(look_again_seconds=decided.look_again_seconds)


def test_the_soonest_look_of_several_awaited_cards_counts() -> None:
    known = [local("a", awaited_no=98, hint_age_seconds=60), local("b", awaited_no=99, hint_age_seconds=1)]
    assert decide(*known).look_again_seconds == pytest.approx(2.0)


def test_an_unconfirmed_card_is_dropped_when_its_time_is_over() -> None:
    card = local("a", "unconfirmed", awaited_no=99, hint_age_seconds=CONFIRM_SECONDS)
    assert decide(card).dropped == (card.card_id,)
    assert decide(card).suspicious == (card.card_id,)
    assert decide(card).removed == ()


def test_a_removed_card_that_a_hint_named_in_vain_stays_removed() -> None:
    card = local("a", "removed", awaited_no=99, hint_age_seconds=CONFIRM_SECONDS)
    assert decide(card).lapsed == (card.card_id,)
    assert decide(card).suspicious == (card.card_id,)


def test_an_active_card_whose_hint_was_never_answered_is_removed_when_its_time_is_over() -> None:
    card = local("a", awaited_no=99, hint_age_seconds=CONFIRM_SECONDS + 1)
    assert decide(card).removed == (card.card_id,)
    assert decide(card).suspicious == ()


def test_a_hint_that_a_list_has_answered_delays_no_removal() -> None:
    shown = decide(local("a", awaited_no=99, hint_age_seconds=5), listed=(remote("a"),)).shown[0]
    assert shown.answered
    assert decide(local("a", awaited_no=None)).removed != ()


def test_a_hint_newer_than_the_list_is_not_answered_by_it() -> None:
    assert not decide(local("a", awaited_no=101), listed=(remote("a"),), number=100).shown[0].answered


@pytest.mark.parametrize("status", ["unconfirmed", "removed"])
def test_a_listed_card_becomes_active(status: CardStatus) -> None:
    assert decide(local("a", status, awaited_no=99), listed=(remote("a"),)).shown[0].revive


def test_a_list_never_brings_a_card_under_deletion_back() -> None:
    assert not decide(local("a", "deleting"), listed=(remote("a"),)).shown[0].revive


def test_a_card_under_deletion_that_is_not_listed_is_proved() -> None:
    decided = decide(local("a", "deleting"))
    assert decided.proved == (local("a", "deleting").card_id,)
    assert decided.removed == ()


def under_deletion(phase: Phase, *, since_no: int = 50, called_seconds_ago: float = 1.0, **known: Any) -> LocalCard:
    moment = NOON - dt.timedelta(seconds=called_seconds_ago)
    deletion = LocalDeletion(
        deletion_id=uuid.uuid5(uuid.NAMESPACE_OID, "d"),
        phase=phase,
        since_no=since_no,
        tried_since=moment,
        called_at=moment,
    )
    return replace(local("a", "deleting", **known), deletion=deletion)


@pytest.mark.parametrize("phase", OPEN)
def test_absence_after_the_call_proves_a_deletion(phase: Phase) -> None:
    card = under_deletion(phase)
    decided = decide(card)
    assert (decided.proved, [v.seen.event for v in decided.deletions]) == ((card.card_id,), ["absent"])


@pytest.mark.parametrize("phase", OPEN)
@pytest.mark.parametrize("since_no", [100, 101])
@pytest.mark.parametrize("listed", [(), ("a",)])
def test_a_list_asked_for_before_the_call_says_nothing_of_the_deletion(
    phase: Phase, since_no: int, listed: tuple[str, ...]
) -> None:
    decided = decide(under_deletion(phase, since_no=since_no), listed=tuple(remote(name) for name in listed))
    assert (decided.proved, decided.deletions, decided.removed) == ((), (), ())
    assert not any(shown.revive for shown in decided.shown)


def test_a_hint_that_awaits_its_answer_delays_no_proof_and_is_looked_after() -> None:
    card = under_deletion("proving", awaited_no=99, hint_age_seconds=5)
    decided = decide(card)
    assert decided.proved == decided.awaited == (card.card_id,)
    assert decided.look_again_seconds == pytest.approx(3.0)


def test_a_hint_newer_than_the_list_lets_a_deletion_wait_for_the_next_one() -> None:
    decided = decide(under_deletion("proving", awaited_no=101, hint_age_seconds=5))
    assert (decided.proved, decided.deletions) == ((), ())


def test_the_brake_does_not_hold_what_was_asked_for() -> None:
    assert decide(under_deletion("proving"), allowed=False).proved != ()


def test_a_card_that_lags_is_looked_at_again_soon() -> None:
    decided = decide(under_deletion("proving", called_seconds_ago=3), listed=(remote("a"),))
    assert [v.seen.event for v in decided.deletions] == ["listed"]
    assert decided.look_again_seconds == pytest.approx(2.0)


def test_the_brake_holds_removals_and_nothing_else() -> None:
    decided = decide(local("a"), local("b", "deleting"), listed=(remote("c"),), allowed=False)
    assert decided.removed == ()
    assert decided.held == (local("a").card_id,)
    assert decided.proved == (local("b", "deleting").card_id,)
    assert decided.added == (remote("c"),)


# --- odd lists ---

SPOILT = [oddity for oddity in ODDITIES if not TABLE[oddity].removes]
UNREAD = [oddity for oddity in ODDITIES if not TABLE[oddity].proves]


@pytest.mark.parametrize("oddity", ODDITIES)
def test_an_odd_list_adds_and_updates_as_any_list(oddity: Oddity) -> None:
    changed = remote("a", CardFacts(brand="MASTERCARD", agreements=()))
    decided = decide(
        local("a"),
        local("b", "unconfirmed", awaited_no=99),
        listed=(changed, remote("b"), remote("c")),
        oddities=(oddity,),
    )
    assert decided.added == (remote("c"),)
    assert [(s.changed, s.revive) for s in decided.shown] == [(True, False), (False, True)]
    assert decided.withheld == ()


@pytest.mark.parametrize("oddity", SPOILT)
def test_an_odd_list_removes_no_active_card(oddity: Oddity) -> None:
    decided = decide(local("a"), listed=(remote("b"),), oddities=(oddity,))
    assert (decided.removed, decided.held) == ((), ())
    assert decided.withheld == (local("a").card_id,)


def test_another_spelling_of_the_customer_removes_as_any_list() -> None:
    assert decide(local("a"), oddities=("owner_spelling",)).removed == (local("a").card_id,)


@pytest.mark.parametrize("phase", OPEN)
@pytest.mark.parametrize("oddity", [o for o in ODDITIES if TABLE[o].proves])
def test_absence_proves_a_deletion_where_no_odd_entry_can_be_the_card(phase: Phase, oddity: Oddity) -> None:
    card = under_deletion(phase)
    assert decide(card, oddities=(oddity,)).proved == (card.card_id,)


@pytest.mark.parametrize("oddity", UNREAD)
def test_where_an_odd_entry_may_be_the_card_ottu_must_have_said_that_it_is_gone(oddity: Oddity) -> None:
    said_gone = under_deletion("proving")
    assert decide(said_gone, oddities=(oddity,)).proved == (said_gone.card_id,)
    for phase in ("asked", "calling", "refused"):
        card = under_deletion(phase)
        decided = decide(card, oddities=(oddity,))
        assert (decided.proved, decided.deletions, decided.withheld) == ((), (), (card.card_id,))


@pytest.mark.parametrize(("age_seconds", "look"), [(0.5, 2.0), (60, 60), (3_600, 3_600), (90_000, 21_600)])
def test_a_deletion_that_an_odd_list_leaves_open_is_looked_at_again(age_seconds: float, look: float) -> None:
    decided = decide(under_deletion("calling", called_seconds_ago=age_seconds), oddities=("unreadable_token",))
    assert decided.look_again_seconds == pytest.approx(look)
    assert decide(under_deletion("asked"), oddities=("unreadable_token",)).look_again_seconds is None


@pytest.mark.parametrize("oddity", UNREAD)
def test_no_hint_is_dropped_because_of_a_list_that_may_show_its_card_unreadably(oddity: Oddity) -> None:
    for status in ("unconfirmed", "removed"):
        card = local("a", status, awaited_no=99, hint_age_seconds=CONFIRM_SECONDS)
        decided = decide(card, oddities=(oddity,))
        assert (decided.suspicious, decided.withheld) == ((), (card.card_id,))
        assert decide(card, oddities=("listed_twice",)).suspicious == (card.card_id,)


def test_a_list_with_several_oddities_means_what_the_strictest_allows() -> None:
    assert may_remove(())
    assert proves_alone(())
    assert may_remove(("owner_spelling",))
    assert not may_remove(("owner_spelling", "listed_twice"))
    assert proves_alone(("owner_spelling", "listed_twice"))
    assert not proves_alone(("listed_twice", "not_a_card"))


def test_oddities_have_words_also_those_of_a_newer_version() -> None:
    assert set(TABLE) == set(ODDITIES)
    assert said(["listed_twice", "of_tomorrow"]) == "one token stands in the list twice; of_tomorrow"
    assert not may_remove_by_name(["of_tomorrow"])
    assert may_remove_by_name(["owner_spelling"])


def test_what_may_be_any_card_and_what_is_not_taken_may_hide_one() -> None:
    assert set(HIDING) == {"long_token", "unreadable_token", "not_a_card", "owner_absent", "owner_case"}


@pytest.mark.parametrize(
    ("known", "believed"),
    [
        (None, False),
        (local("a"), True),
        (local("a", "deleting"), True),
        (local("a", "unconfirmed", awaited_no=99), True),
        (local("a", "removed", awaited_no=99), True),
        (local("a", "removed"), False),
    ],
)
def test_an_entry_that_may_only_confirm_adds_no_card_and_brings_none_back_without_a_hint(
    known: LocalCard | None, believed: bool
) -> None:
    entry = replace(remote("a"), only_if_known=True)
    assert bool(believable([entry], [known] if known else [])) is believed


def test_what_a_list_does_not_say_stays_as_it_is_known() -> None:
    known = local("a", facts=CardFacts(brand="VISA", number="**** 0008", agreements=("x",)))
    entry = RemoteCard(
        fingerprint("a"), Token("tok-fake-a"), CardFacts(brand="MC"), frozenset({"number", "agreements"})
    )
    (believed,) = believable([entry], [known])
    assert believed.facts == CardFacts(brand="MC", number="**** 0008", agreements=("x",))
    assert believable([entry], []) == [entry]


def test_last_four_digits_that_were_read_otherwise_before_are_put_right() -> None:
    assert decide(replace(local("a"), last4_is_stale=True), listed=(remote("a"),)).shown[0].changed


STATUSES = st.sampled_from(["unconfirmed", "active", "deleting", "removed"])
LOCALS = st.lists(
    st.builds(
        local,
        st.sampled_from("abcdef"),
        STATUSES,
        awaited_no=st.one_of(st.none(), st.integers(1, 200)),
        hint_age_seconds=st.floats(0, 300),
    ),
    unique_by=lambda card: card.fingerprint,
)
REMOTES = st.lists(st.builds(remote, st.sampled_from("abcdef")), unique_by=lambda card: card.fingerprint).map(tuple)


@given(LOCALS, REMOTES, st.lists(st.sampled_from(ODDITIES), min_size=1, max_size=3).map(tuple))
def test_an_odd_list_says_no_more_of_absent_cards_than_a_clean_one(
    known: list[LocalCard], listed: tuple[RemoteCard, ...], oddities: tuple[Oddity, ...]
) -> None:
    clean, odd = decide(*known, listed=listed), decide(*known, listed=listed, oddities=oddities)
    assert (odd.added, odd.shown) == (clean.added, clean.shown)
    for name in ("removed", "proved", "dropped", "lapsed"):
        assert set(getattr(odd, name)) <= set(getattr(clean, name))
        assert set(getattr(clean, name)) - set(getattr(odd, name)) <= set(odd.withheld)
    if not may_remove(oddities):
        assert odd.removed == ()


@given(LOCALS, REMOTES)
def test_every_card_gets_at_most_one_verdict_and_listed_ones_are_never_removed(
    known: list[LocalCard], listed: tuple[RemoteCard, ...]
) -> None:
    decided = decide(*known, listed=listed)
    verdicts = [*decided.removed, *decided.proved, *decided.dropped, *decided.lapsed, *decided.held]
    verdicts += [s.card_id for s in decided.shown]
    assert len(verdicts) == len(set(verdicts))
    shown = {card.fingerprint for card in listed}
    by_id = {card.card_id: card for card in known}
    for gone in (*decided.removed, *decided.proved, *decided.dropped):
        assert by_id[gone].fingerprint not in shown
        awaited = by_id[gone].awaited_no
        assert awaited is None or awaited <= 100
    assert {c.fingerprint for c in decided.added} | {s.remote.fingerprint for s in decided.shown} == shown


@given(REMOTES)
def test_what_was_applied_once_changes_nothing_the_second_time(listed: tuple[RemoteCard, ...]) -> None:
    known = [LocalCard(card_id=uuid.uuid4(), fingerprint=r.fingerprint, status="active", facts=r.facts) for r in listed]
    assert decide(*known, listed=listed).writes == 0


def test_a_hint_of_a_card_that_an_odd_list_may_hide_asks_for_the_next_look() -> None:
    hinted = local("a", "unconfirmed", awaited_no=5, hint_age_seconds=600)
    odd = decide(hinted, oddities=("unreadable_token",))
    assert (odd.withheld, odd.dropped, odd.look_again_seconds) == ((hinted.card_id,), (), 600.0)
    clean = decide(hinted)
    assert (clean.withheld, clean.dropped, clean.look_again_seconds) == ((), (hinted.card_id,), None)
