"""Settings that are wrong or missing: each is named in one line, and no secret is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cardsync.errors import Misconfigured
from cardsync.settings import Need
from tests.settings_texts import ALL_NEEDS, FULL, SECRET, read, refusal

# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CARDSYNC_DATABASE_URL", f"mysql://app:{SECRET}@db/cards"),
        ("CARDSYNC_DATABASE_URL", SECRET),
        ("CARDSYNC_DATABASE_URL", f"postgresql://app:{SECRET}\uff20@[db/cards"),
        (
            "CARDSYNC_DATABASE_URL",
            f"postgresql://app:{SECRET}\u2100@db/cards",
        ),  # urlsplit's own error quotes it
        ("CARDSYNC_BROKER_URL", f"sqs://{SECRET}"),
        ("CARDSYNC_BROKER_URL", f"http://app:{SECRET}@127.0.0.1"),
        ("CARDSYNC_SECRET_KEY", "s" * 31),
        ("CARDSYNC_SECRET_KEY", f"{SECRET}\udcff"),  # what the environment makes of a byte that is no UTF-8
        ("CARDSYNC_ACK_STATUS", "204"),
        ("CARDSYNC_ACK_STATUS", "ok"),
        ("CARDSYNC_MAX_BODY_BYTES", "0"),
        ("CARDSYNC_MAX_BODY_BYTES", "1e99"),
        ("CARDSYNC_LOG_FORMAT", "xml"),
        ("CARDSYNC_LOG_LEVEL", "loud"),
        ("CARDSYNC_DATABASE_CONNECTIONS", "9"),
        ("CARDSYNC_WEB_THREADS", "0"),
        ("CARDSYNC_WORKER_THREADS", "-1"),
        ("CARDSYNC_CONFIRM_S", "nan"),
        ("CARDSYNC_LOOK_AGAIN_S", "0"),
        ("CARDSYNC_REMOVAL_BRAKE_SHARE", "1.1"),
        ("CARDSYNC_REMOVAL_BRAKE_FLOOR", "-1"),
        ("CARDSYNC_INBOX_CONTENT_DAYS", "0"),
        ("CARDSYNC_INBOX_DAYS", "ever"),
        ("OTTU_MERCHANT_ID", "https://acme.ottu.net"),
        ("OTTU_MERCHANT_ID", "acme.ottu.net/b"),
        ("OTTU_MERCHANT_ID", "acme.ottu.net#x"),
        ("OTTU_MERCHANT_ID", "acme.ottu.net\n.example.test"),
        ("OTTU_MERCHANT_ID", f"user:{SECRET}@acme.ottu.net"),
        ("OTTU_MERCHANT_ID", "acme ottu net"),
        ("OTTU_BASE_URL", "http://acme.ottu.net"),
        ("OTTU_BASE_URL", "http://127.0.0.1.example.test"),
        ("OTTU_BASE_URL", "http://localhost@acme.ottu.net"),
        ("OTTU_BASE_URL", "http://10.0.0.1"),
        ("OTTU_BASE_URL", "ftp://127.0.0.1"),
        ("OTTU_BASE_URL", "acme.ottu.net"),
        ("OTTU_BASE_URL", "https://"),
        ("OTTU_BASE_URL", "https://[::1"),
        ("OTTU_BASE_URL", "https://acme.ottu.net:port"),
        ("OTTU_BASE_URL", "https://acme.ottu.net:99999"),
        ("OTTU_BASE_URL", "https://acme.ottu.net\n"),
        ("OTTU_BASE_URL", "https://acme.ottu.net?x=1"),
        ("OTTU_BASE_URL", "https://acme.ottu.net#"),
        ("OTTU_BASE_URL", f"https://user:{SECRET}@acme.ottu.net"),
        ("OTTU_BASE_URL", f"https://user:{SECRET}/@acme.ottu.net"),
        ("OTTU_API_KEY", f"{SECRET}\r\nHost: example.test"),
        ("OTTU_API_KEY", f"{SECRET}\u00e9"),
        ("OTTU_WEBHOOK_KEYS", f"{SECRET}\n{SECRET}"),
        ("OTTU_WEBHOOK_KEYS", f"{SECRET}\udcff"),
        ("OTTU_CARDS_API", "maybe"),
        ("OTTU_DAILY_CALLS", "0"),
        ("OTTU_DAILY_CALLS", "many"),
        ("OTTU_TIMEOUT_S", "0"),
        ("OTTU_TIMEOUT_S", "nan"),
        ("OTTU_TIMEOUT_S", "inf"),
    ],
)
def test_a_malformed_setting_is_named_in_one_line_without_its_value(tmp_path: Path, name: str, value: str) -> None:
    text = refusal(tmp_path, {name: value})
    assert text.startswith(f"{name} is wrong: ")
    assert len(value) < 5 or value not in text  # a short one may well stand in the bound that it breaks


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = refusal(tmp_path, {"CARDSYNC_ACK_STATUS": "204", "OTTU_TIMEOUT_S": "0"})
    assert [part.partition(" is wrong")[0] for part in text.split("; ")] == [
        "CARDSYNC_ACK_STATUS",
        "OTTU_TIMEOUT_S",
    ]


@pytest.mark.parametrize("alone", [{"OTTU_USERNAME": "user"}, {"OTTU_PASSWORD": SECRET}])
def test_a_user_and_a_password_come_together(tmp_path: Path, alone: dict[str, str]) -> None:
    assert refusal(tmp_path, alone) == "OTTU_USERNAME and OTTU_PASSWORD must be set together"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"OTTU_MERCHANT_ID": "acme.ottu.net"}, "https://acme.ottu.net"),
        ({"OTTU_MERCHANT_ID": "acme.ottu.net:8443"}, "https://acme.ottu.net:8443"),
        ({"OTTU_BASE_URL": "https://acme.ottu.net/"}, "https://acme.ottu.net"),
        ({"OTTU_BASE_URL": "http://localhost:8099"}, "http://localhost:8099"),
        ({"OTTU_BASE_URL": "http://127.0.0.2:8099"}, "http://127.0.0.2:8099"),
        ({"OTTU_BASE_URL": "http://[::1]:8099/"}, "http://[::1]:8099"),
        (
            {"OTTU_BASE_URL": "http://127.0.0.1:8099", "OTTU_MERCHANT_ID": "acme.ottu.net"},
            "http://127.0.0.1:8099",
        ),
    ],
)
def test_where_ottu_answers(tmp_path: Path, given: dict[str, str], url: str) -> None:
    assert read(tmp_path, given).ottu_url == url


def test_without_an_address_of_ottus_there_is_no_url(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="OTTU_MERCHANT_ID is missing"):
        _ = read(tmp_path).ottu_url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app@h1:5432,h2:5432/cards",
        "postgres://db/cards",
        "postgresql+psycopg://app@/cards?host=/run/postgresql",
    ],
)
def test_any_address_that_postgresql_knows_is_taken(tmp_path: Path, url: str) -> None:
    settings = read(tmp_path, {"CARDSYNC_DATABASE_URL": url}, "database")
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == url


# --- what is needed ---


@pytest.mark.parametrize(
    ("need", "names"),
    [
        ("database", ["CARDSYNC_DATABASE_URL"]),
        ("broker", ["CARDSYNC_BROKER_URL"]),
        ("secret", ["CARDSYNC_SECRET_KEY"]),
        ("webhook", ["OTTU_WEBHOOK_KEYS"]),
        ("ottu", ["OTTU_MERCHANT_ID", "OTTU_API_KEY"]),
    ],
)
def test_what_a_process_needs_and_lacks_is_named(tmp_path: Path, need: Need, names: list[str]) -> None:
    text = refusal(tmp_path, {}, need)
    assert re.findall(r"(\S+) is missing", text) == names


def test_every_need_can_be_met(tmp_path: Path) -> None:
    read(tmp_path, FULL, *ALL_NEEDS)


def test_where_ottu_has_no_cards_api_no_credentials_are_needed(tmp_path: Path) -> None:
    read(tmp_path, {"OTTU_CARDS_API": "unavailable"}, "ottu")


def test_without_a_secret_there_are_no_fingerprints(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="CARDSYNC_SECRET_KEY is missing"):
        read(tmp_path).secret_bytes()


@pytest.mark.parametrize("keys", ["production:", "a,sandbox:", "production:k,sandbox:k", "k,production:k"])
def test_a_binding_that_says_nothing_or_two_things_is_refused(tmp_path: Path, keys: str) -> None:
    with pytest.raises(Misconfigured, match="OTTU_WEBHOOK_KEYS is wrong"):
        read(tmp_path, {"OTTU_WEBHOOK_KEYS": keys})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CARDSYNC_TIME_ZONE", "Mars/Olympus"),
        ("CARDSYNC_TIME_ZONE", "../etc/passwd"),
        ("OTTU_API_KEY_EXPIRES_ON", "30/06/2027"),
    ],
)
def test_a_zone_or_a_day_that_is_none_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(Misconfigured, match=f"^{name} is wrong: "):
        read(tmp_path, {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CARDSYNC_CONSOLE_URL", "http://console.example"),
        ("CARDSYNC_CONSOLE_URL", "https://console.example/console"),
        ("CARDSYNC_CONSOLE_URL", "https://user@console.example"),
        ("CARDSYNC_OIDC_ROLES", "card-support"),
        ("CARDSYNC_OIDC_ROLES", '{"card-support": "owner"}'),
        ("CARDSYNC_OIDC_ISSUER", "https://issuer.example"),  # alone
    ],
)
def test_a_wrong_setting_of_the_console_stops_in_one_line(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(Misconfigured, match=name) as refused:
        read(tmp_path, {name: value})
    assert "\n" not in str(refused.value)
