"""Statuses of a list, and the wish to wait: each has its error, and none is an empty list."""

from __future__ import annotations

import datetime as dt
from email.utils import format_datetime

import pytest

from cardsync.errors import (
    CredentialsRefused,
    InvalidAnswer,
    ListNotFound,
    OttuFault,
    OttuRejected,
    OttuThrottled,
)
from tests.ottu_client.lists import listed


def test_a_404_to_a_list_has_an_error_of_its_own(ottu, client):
    for body, says_why in (({"detail": "Not found."}, True), (b"<html>", False), (b"", False), ([], False)):
        ottu.answers(404, body)
        with pytest.raises(ListNotFound) as raised:
            listed(client)
        assert (raised.value.status_code, raised.value.says_why) == (404, says_why)


@pytest.mark.parametrize("status", [201, 202, 203, 204, 206, 300, 304, 600, 999])
def test_another_status_than_200_is_no_list(ottu, client, status):
    ottu.answers(status, None if status in (204, 304) else [])
    with pytest.raises(InvalidAnswer):
        listed(client)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(ottu, client, status):
    ottu.answers(status, [], {"Location": "/elsewhere"})
    with pytest.raises(InvalidAnswer):
        listed(client)
    assert len(ottu.seen) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, OttuRejected),
        (401, CredentialsRefused),
        (403, CredentialsRefused),
        (404, ListNotFound),
        (405, OttuRejected),
        (408, OttuFault),
        (415, OttuRejected),
        (422, OttuRejected),
        (429, OttuThrottled),
        (500, OttuFault),
        (502, OttuFault),
        (503, OttuFault),
        (599, OttuFault),
    ],
)
def test_each_status_has_its_error(ottu, client, status, error):
    ottu.answers(status, [])  # even with a body that would be a list
    with pytest.raises(error) as raised:
        listed(client)
    assert type(raised.value) is error
    if error is OttuRejected:
        assert raised.value.status_code == status


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", 7.0),
        ("9" * 5000, 3600.0),
        ("soon", None),
        ("٣", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
    ],
)
def test_a_wish_to_wait_is_kept_within_bounds(ottu, client, status, header, expected):
    ottu.answers(status, None, {"Retry-After": header.encode().decode("latin-1")})
    with pytest.raises((OttuThrottled, OttuFault)) as raised:
        listed(client)
    assert raised.value.retry_after_seconds == expected


def test_a_wish_to_wait_may_be_a_date(ottu, client):
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=120)
    ottu.answers(429, None, {"Retry-After": format_datetime(soon, usegmt=True)})
    with pytest.raises(OttuThrottled) as raised:
        listed(client)
    assert 100 < raised.value.retry_after_seconds <= 120


def test_a_date_counts_from_ottus_own_clock(ottu, client):
    theirs = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=10)
    until = theirs + dt.timedelta(seconds=120)
    headers = {"Date": format_datetime(theirs, usegmt=True), "Retry-After": format_datetime(until, usegmt=True)}
    ottu.answers(429, None, headers)
    with pytest.raises(OttuThrottled) as raised:
        listed(client)
    assert raised.value.retry_after_seconds == 120


def test_no_wish_to_wait_is_none(ottu, client):
    ottu.answers(429)
    with pytest.raises(OttuThrottled) as raised:
        listed(client)
    assert raised.value.retry_after_seconds is None
