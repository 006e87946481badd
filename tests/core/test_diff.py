"""What is believed of a list: the rules of ``core.diff``, each by name."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.cards import CardFacts, Token
from cardsync.core.deletion import OPEN, LocalDeletion, Phase
from cardsync.core.diff import LocalCard, Observation, Plan, RemoteCard, Status, plan

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
VISA = CardFacts(brand="VISA", number="**** 0008", agreements=())
CONFIRM_SECONDS = 120.0


def fingerprint(name: str) -> bytes:
    return name.encode().ljust(32, b".")


def remote(name: str, facts: CardFacts = VISA) -> RemoteCard:
    return RemoteCard(fingerprint(name), Token(f"tok-fake-{name}"), facts)


def local(
    name: str,
    status: Status = "active",
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


def decide(*known: LocalCard, listed: tuple[RemoteCard, ...] = (), number: int = 100, allowed: bool = True) -> Plan:
    return plan(known, listed, Observation(number, NOON), confirm_seconds=CONFIRM_SECONDS, removals_allowed=allowed)


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
def test_a_hinted_card_that_is_not_listed_yet_is_asked_for_again(status: Status) -> None:
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
def test_a_listed_card_becomes_active(status: Status) -> None:
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
