"""The one table of what follows from an end of a call: written out once more, and its rows' rules."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync import errors
from cardsync.core.backoff import LONGEST_OF_A_CUSTOMER_SECONDS, LONGEST_SECONDS
from cardsync.core.call_budget import LANES, ROUTINE, Lane
from cardsync.core.deletion import next_phase
from cardsync.core.trouble import (
    KINDS,
    LONGEST_WAIT_OF_A_PROBE_SECONDS,
    PATIENT_FAILURES,
    TABLE,
    Call,
    Kind,
    Trouble,
    kind_of,
    lane_after,
    longest_wait_seconds,
)

# Written out once more, and not derived: a slip in the table shows as a difference. Scope, the breaker's word, counted, urgent,
# the deletion's event, the attempt is given back.
ROWS = {
    "silent": ("everybody", "failed", True, True, "no_answer", False),
    "throttled": ("everybody", "throttled", True, True, "not_done", False),
    "credentials": ("everybody", "credentials_refused", True, True, "not_done", True),
    "refused_alone": ("customer", "odd", True, False, "not_done", False),
    "odd": ("customer", "odd", True, False, "no_answer", False),
    "declined": ("card", "rejected", True, True, "declined", False),
    "unusable": ("card", None, True, True, "gave_up", False),
    "not_called": ("ours", None, False, True, "not_done", True),
    "unforeseen": ("ours", None, True, False, "no_answer", False),
}
ENDS: list[tuple[Exception, Kind, Kind | None]] = [  # of a list, of a deletion
    (errors.OttuUnavailable("x"), "silent", "silent"),
    (errors.OttuFault("x"), "silent", "silent"),
    (errors.UnreadableAnswer("a proxy's page"), "silent", "silent"),
    (errors.OttuThrottled("x"), "throttled", "throttled"),
    (errors.CredentialsRefused("x"), "credentials", "credentials"),
    (errors.InvalidAnswer("another customer's card"), "odd", "odd"),
    (errors.OttuRejected("x", status_code=405), "odd", "declined"),
    (errors.CallsPaused("x"), "not_called", "not_called"),
    (errors.BudgetSpent("x"), "not_called", "not_called"),
    (KeyError("x"), "unforeseen", "unforeseen"),
]
NO_END_OF_A_CALL = (errors.SpoolUnusable, errors.Superseded, errors.Misconfigured, errors.NotFound, errors.Conflict)


def classes(root: type[Exception]) -> set[type[Exception]]:
    return {root}.union(*(classes(c) for c in root.__subclasses__()))


def test_every_row() -> None:
    rows = {kind: (t.scope, t.word, t.counts, t.stays_urgent, t.event, t.refund) for kind, t in TABLE.items()}
    assert rows == ROWS
    assert set(TABLE) == set(get_args(Kind))


@pytest.mark.parametrize(("error", "of_a_list", "of_a_deletion"), ENDS, ids=lambda v: type(v).__name__)
def test_every_error_leads_to_its_row(error: Exception, of_a_list: Kind, of_a_deletion: Kind | None) -> None:
    assert kind_of(error, "list") == of_a_list
    assert kind_of(error, "delete") == of_a_deletion


def test_every_error_that_a_call_can_end_with_has_exactly_one_line() -> None:
    """All that are transient or terminal, but for the roots and what no call raises: a new class needs a row."""
    ends = {one for one in classes(errors.Transient) if one.__module__ == errors.__name__}  # not a story's own
    ends |= {one for one in classes(errors.Terminal) if one.__module__ == errors.__name__} | {errors.UnusableCard}
    assert set(KINDS) == ends - {errors.Transient, errors.Terminal, errors.SpoolUnusable}


@pytest.mark.parametrize("error", NO_END_OF_A_CALL)
@pytest.mark.parametrize("call", get_args(Call))
def test_what_no_call_ends_with_raises(error: type[Exception], call: Call) -> None:
    with pytest.raises(LookupError, match=error.__name__):
        kind_of(error("x"), call)


def test_a_token_that_cannot_be_called_for_is_no_end_of_a_list() -> None:
    assert kind_of(errors.UnusableCard("x"), "delete") == "unusable"
    with pytest.raises(LookupError):
        kind_of(errors.UnusableCard("x"), "list")


@pytest.mark.parametrize(("error", "of_a_list", "_"), ENDS, ids=lambda v: type(v).__name__)
def test_only_a_refusal_of_credentials_can_be_one_customers_alone(error: Exception, of_a_list: Kind, _: Kind) -> None:
    expected = "refused_alone" if of_a_list == "credentials" else of_a_list
    assert kind_of(error, "list", alone=True) == expected


TROUBLES = st.sampled_from(list(TABLE.values()))
LANE = st.sampled_from(LANES)


@given(TROUBLES, LANE, st.integers(1, 50), st.booleans())
def test_a_lane_never_grows_more_urgent_by_a_failure(t: Trouble, lane: Lane, failures: int, waits: bool) -> None:
    after = lane_after(t, lane, failures=failures, deletion_waits=waits)
    assert after == "retry" or LANES.index(after) >= LANES.index(lane)
    if lane in ROUTINE or not t.counts:
        assert after == lane


@given(st.sampled_from([t for t in TABLE.values() if t.scope == "customer"]), LANE, st.integers(1, 50))
def test_a_customer_in_trouble_of_its_own_leaves_the_urgent_lanes(t: Trouble, lane: Lane, failures: int) -> None:
    after = lane_after(t, lane, failures=failures, deletion_waits=False)
    assert (after in ROUTINE) is (lane in ROUTINE or failures > PATIENT_FAILURES)
    assert longest_wait_seconds(t, after) == LONGEST_OF_A_CUSTOMER_SECONDS
    assert lane_after(t, "deletion", failures=failures, deletion_waits=True) == "deletion"


@given(st.sampled_from([t for t in TABLE.values() if t.scope == "everybody"]), LANE, st.integers(1, 50), st.booleans())
def test_everybodys_trouble_takes_no_customer_out_of_its_lane(t: Trouble, lane: Lane, n: int, waits: bool) -> None:
    assert lane_after(t, lane, failures=n, deletion_waits=waits) in (lane, "retry")
    assert lane_after(t, "deletion", failures=n, deletion_waits=waits) == "deletion"


@given(TROUBLES, LANE)
def test_every_wait_has_a_bound_and_a_deletions_a_shorter_one(t: Trouble, lane: Lane) -> None:
    longest = longest_wait_seconds(t, lane)
    assert longest <= (LONGEST_SECONDS if lane == "deletion" else LONGEST_OF_A_CUSTOMER_SECONDS)
    if t is TABLE["credentials"]:
        assert longest == LONGEST_WAIT_OF_A_PROBE_SECONDS


@given(TROUBLES)
def test_every_event_of_a_row_is_one_that_a_deletion_being_called_knows(t: Trouble) -> None:
    assert next_phase("calling", t.event)
