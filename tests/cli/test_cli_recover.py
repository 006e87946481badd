"""``cardsync recover`` as a process of its own, against the stand-in's inquiry endpoint."""

from __future__ import annotations

import json

import pytest

OWNER = ("sandbox", "cust/é %1")


@pytest.fixture
def stand_in(ottu):
    """It lets anybody ask at once."""
    ottu.turn(inquiry_after_seconds=0)
    return ottu


def lost(stand_in, **given):
    """A payment whose notification never came; its session."""
    return stand_in.checkout().save_card(*OWNER, notify=False, **given).purchase.session_id


def test_without_lists_a_lost_payments_card_becomes_active(process, stand_in, shop, monkeypatch):
    monkeypatch.setenv("OTTU_CARDS_API", "unavailable")
    result = process("recover", "--session", lost(stand_in), "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["answered"] == 1
    assert list(shop.cards(OWNER[1]).values()) == ["active"]


def test_with_lists_a_lost_payment_makes_its_customer_due(process, stand_in, shop):
    result = process("recover", "--session", lost(stand_in))
    assert result.returncode == 0, result.stderr
    assert "answered  1" in result.stdout
    assert (shop.customer(OWNER[1]).lane, list(shop.cards(OWNER[1]).values())) == ("retry", ["unconfirmed"])


@pytest.mark.parametrize("repeated", [False, True])
def test_more_sessions_may_follow_the_first_or_each_have_its_option(process, stand_in, shop, repeated):
    first, second, third = (lost(stand_in) for _ in range(3))
    last = ("--session", third) if repeated else (third,)
    result = process("recover", "--session", first, second, *last, "--json")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["answered"] == 3
    assert {one["session_id"] for one in said["sessions"]} == {first, second, third}


def test_a_file_names_many_and_each_end_is_counted(process, stand_in, shop, tmp_path):
    sessions = [lost(stand_in) for _ in range(3)]
    file = tmp_path / "sessions.txt"
    file.write_text("# lost on Tuesday\n\n" + "\r\n".join([*sessions, "f" * 40, sessions[0]]), encoding="utf-8")
    result = process("recover", "--file", str(file), "--json")
    assert result.returncode == 1
    said = json.loads(result.stdout)
    assert (said["answered"], said["unknown"], said["waiting"], said["failed"]) == (3, 1, 0, 0)
    assert [one["session_id"] for one in said["sessions"]] == [*sessions, "f" * 40]
    assert "of 4 payments 1 are not known to Ottu" in result.stderr


def test_what_ottu_takes_no_question_about_yet_is_left_to_the_workers(process, ottu, shop):
    result = process("recover", "--session", lost(ottu), "--max-wait", "1")
    assert result.returncode == 1
    assert "of 1 payments 1 wait, and the workers will ask" in result.stderr
    (row,) = shop.execute("SELECT status, last_error FROM cardsync.inquiries")
    assert (row.status, row.last_error) == ("waiting", "OttuThrottled: Ottu asks us to slow down: 429")


def test_neither_output_nor_log_shows_a_token(process, stand_in, shop):
    session = lost(stand_in, token="9999000011112222")
    result = process("recover", "--session", session)
    assert "9999000011112222" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--session", "a", "--file", "-"),
        ("a",),
        ("--file", "-", "a"),
        ("--session", "a", "../x"),
        ("--session", "../x"),
        ("--session", ""),
        ("--session", "a" * 129),
        ("--file", "/nonexistent"),
        ("--session", "a", "--max-wait", "-1"),
    ],
)
def test_wrong_usage_is_exit_status_2(cardsync, arguments):
    assert cardsync("recover", *arguments).exit_code == 2


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"good\nwrong one\n", b"\xff\xfe"])
def test_a_file_that_names_no_sessions_is_wrong_usage(cardsync, tmp_path, content):
    file = tmp_path / "sessions"
    file.write_bytes(content)
    assert cardsync("recover", "--file", str(file)).exit_code == 2


def test_without_credentials_it_says_what_is_missing(cardsync):
    result = cardsync("recover", "--session", "a" * 40)
    assert (result.exit_code, "OTTU_MERCHANT_ID" in result.output) == (2, True)
