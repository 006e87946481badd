"""Settings: where each value comes from, and that no secret is printed."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cardsync.setting_sources import DEV_FILE, DEV_LOCK, MAX_SECRET_FILE_BYTES
from cardsync.settings import NAMES, Settings, unknown_names
from tests.settings_texts import ALL_NEEDS, FULL, SECRET, read, refusal


@pytest.fixture
def run_dev(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Leave what a running ``cardsync dev`` leaves in its data directory, and hold its lock."""
    with contextlib.ExitStack() as held:

        def run(**settings: object) -> None:
            (tmp_path / ".cardsync").mkdir()
            (tmp_path / ".cardsync" / DEV_FILE).write_text(json.dumps({"pid": 1, "settings": settings}))
            lock = held.enter_context((tmp_path / ".cardsync" / DEV_LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)

        yield run


# --- what is read ---


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert settings.data_dir == tmp_path / ".cardsync"
    assert (settings.ack_status, settings.max_body_bytes) == (200, 1_048_576)
    assert (settings.ottu_cards_api, settings.ottu_daily_calls, settings.ottu_timeout_s) == (
        "enabled",
        90_000,
        10.0,
    )
    assert settings.webhook_keys() == ()
    assert not settings.ottu_credentials_set


def test_every_setting_is_read_from_its_variable(tmp_path: Path) -> None:
    values = {
        "CARDSYNC_DATABASE_DIRECT_URL": f"postgresql://app:{SECRET}@h1:5432,h2/cards?target_session_attrs=read-write",
        "CARDSYNC_BROKER_CA_FILE": "/etc/ssl/authority.pem",
        "CARDSYNC_TOKENS_AT_REST": "encrypted",
        "CARDSYNC_DATA_DIR": "elsewhere",
        "CARDSYNC_SPOOL_MAX_FILES": "10",
        "CARDSYNC_SPOOL_MAX_BYTES": "8192",
        "CARDSYNC_KEEP_MINUTES": "15",
        "CARDSYNC_DATABASE_CONNECTIONS": "12",
        "CARDSYNC_ROLE_PREFIX": "staging_",
        "CARDSYNC_ACK_STATUS": "201",
        "CARDSYNC_MAX_BODY_BYTES": "2048",
        "CARDSYNC_WEBHOOK_PATH": "/webhooks/of-ours",
        "CARDSYNC_LOG_FORMAT": "json",
        "CARDSYNC_LOG_LEVEL": "debug",
        "CARDSYNC_WEB_THREADS": "3",
        "CARDSYNC_WORKER_THREADS": "4",
        "CARDSYNC_HEALTH_PORT": "9101",
        "CARDSYNC_CONFIRM_S": "1.5",
        "CARDSYNC_LOOK_AGAIN_S": "60",
        "CARDSYNC_REMOVAL_BRAKE_SHARE": "0.5",
        "CARDSYNC_REMOVAL_BRAKE_FLOOR": "7",
        "CARDSYNC_DELETION_BRAKE_SHARE": "0.25",
        "CARDSYNC_DELETION_BRAKE_FLOOR": "9",
        "CARDSYNC_INBOX_CONTENT_DAYS": "8",
        "CARDSYNC_INBOX_DAYS": "9",
        "CARDSYNC_READ_RECORD_DAYS": "10",
        "CARDSYNC_RELAY_KEEP_DAYS": "7",
        "CARDSYNC_SIGNATURE_DAYS": "11",
        "CARDSYNC_PREVIOUS_SECRET_KEYS": f"{SECRET[::-1]}, {SECRET * 2}",
        "CARDSYNC_CONSOLE_URL": "https://console.example",
        "CARDSYNC_CONSOLE_READ_ONLY": "true",
        "CARDSYNC_OIDC_ISSUER": "https://issuer.example",
        "CARDSYNC_OIDC_CLIENT_ID": "cardsync",
        "CARDSYNC_OIDC_CLIENT_SECRET": "fake",
        "CARDSYNC_OIDC_ROLES": '{"card-support": "support"}',
        "CARDSYNC_OIDC_CLAIM": "roles",
        "CARDSYNC_TIME_ZONE": "Asia/Riyadh",
        "OTTU_API_KEY_EXPIRES_ON": "2027-06-30",
        "OTTU_BASE_URL": "http://127.0.0.1:8099",
        "OTTU_USERNAME": "user",
        "OTTU_PASSWORD": "pass",
        "OTTU_CARDS_API": "unavailable",
        "OTTU_DAILY_CALLS": "100",
        "OTTU_TIMEOUT_S": "0.5",
    }
    settings = read(tmp_path, FULL | values, *ALL_NEEDS)
    assert FULL.keys() | values.keys() == set(NAMES.values())
    assert NAMES.keys() == Settings.model_fields.keys()
    apart = ("CARDSYNC_DATA_DIR", "OTTU_PASSWORD", "CARDSYNC_PREVIOUS_SECRET_KEYS", "CARDSYNC_OIDC_ROLES")
    for field, name in NAMES.items():
        if name in values and name not in (*apart, "CARDSYNC_OIDC_CLIENT_SECRET"):
            value = getattr(settings, field)
            assert str(value) == (values[name] if isinstance(value, dt.date) else str(type(value)(values[name])))
    assert settings.data_dir == tmp_path / "elsewhere"
    assert settings.secret_bytes() == SECRET.encode()
    assert [key.secret.decode() for key in settings.key_ring().keys] == [SECRET, SECRET[::-1], SECRET * 2]
    assert settings.key_ring().encrypts_cards
    assert settings.webhook_keys() == (SECRET, f"another-{SECRET}")
    assert settings.ottu_url == "http://127.0.0.1:8099"
    assert settings.oidc_roles == {"card-support": "support"}
    assert settings.console_read_only is True


def test_a_notification_sheds_its_content_no_later_than_it_goes(tmp_path: Path) -> None:
    assert read(tmp_path, {"CARDSYNC_INBOX_CONTENT_DAYS": "90"}).inbox_days == 90
    text = refusal(tmp_path, {"CARDSYNC_INBOX_CONTENT_DAYS": "91"})
    assert text == "CARDSYNC_INBOX_CONTENT_DAYS must not be more than CARDSYNC_INBOX_DAYS"


@pytest.mark.parametrize("given", ["short", f"production:short,{SECRET}", f"{SECRET},a-key-split-by,its-comma"])
def test_a_webhook_key_that_is_short_or_split_by_its_own_comma_is_warned_of_and_works(
    tmp_path: Path, given: str
) -> None:
    settings = read(tmp_path, {"OTTU_WEBHOOK_KEYS": given})
    (line,) = settings.warnings()
    assert "fewer than 16 characters" in line
    assert "short" not in line
    assert settings.webhook_keys() == tuple(given.split(","))


def test_long_webhook_keys_are_not_warned_of(tmp_path: Path) -> None:
    assert read(tmp_path, {"OTTU_WEBHOOK_KEYS": f"{SECRET},production:another-{SECRET}"}).warnings() == []


def test_settings_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        read(tmp_path).ack_status = 201  # type: ignore[misc]


def test_no_secret_is_printed(tmp_path: Path) -> None:
    settings = read(tmp_path, FULL | {"OTTU_USERNAME": "user", "OTTU_PASSWORD": SECRET})
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert SECRET not in text


def test_webhook_keys_are_trimmed_and_kept_in_order(tmp_path: Path) -> None:
    assert read(tmp_path, {"OTTU_WEBHOOK_KEYS": " b , a,,\u00e9,"}).webhook_keys() == ("b", "a", "\u00e9")


def test_the_environment_wins_over_dotenv_and_an_empty_variable_is_unset(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OTTU_DAILY_CALLS=1\nCARDSYNC_WEB_THREADS=2\nOTTU_TIMEOUT_S=3\nEXPORTED\n")
    settings = read(tmp_path, {"OTTU_DAILY_CALLS": "9", "CARDSYNC_WEB_THREADS": ""})
    assert (settings.ottu_daily_calls, settings.web_threads, settings.ottu_timeout_s) == (9, 2, 3.0)


def test_dotenv_is_read_literally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    (tmp_path / ".env").write_text("OTTU_WEBHOOK_KEYS=a${HOME}b\n")
    assert read(tmp_path).webhook_keys() == ("a${HOME}b",)


def test_a_dotenv_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"OTTU_API_KEY=\xff\xfe")
    assert refusal(tmp_path, {}).startswith(".env cannot be read")


# --- secrets in files ---


@pytest.mark.parametrize("name", sorted(NAMES.values()))
def test_every_setting_can_be_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "mounted").write_text("not of any use\x00\n")
    usable = {**FULL, "OTTU_USERNAME": "u", "OTTU_PASSWORD": "p"}
    usable.pop(name, None)
    assert refusal(tmp_path, {**usable, f"{name}_FILE": "absent"}) == f"{name}_FILE cannot be read: FileNotFoundError"


def test_a_files_value_is_trimmed_and_its_path_is_relative_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"\n{SECRET}\n")
    for path in ("key", str(tmp_path / "key")):
        assert read(tmp_path, {"CARDSYNC_SECRET_KEY_FILE": path}).secret_bytes() == SECRET.encode()


def test_dotenv_can_name_a_file_and_the_environment_wins_over_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file")
    (tmp_path / ".env").write_text("OTTU_WEBHOOK_KEYS_FILE=key\n")
    assert read(tmp_path).webhook_keys() == ("from-file",)
    assert read(tmp_path, {"OTTU_WEBHOOK_KEYS": "plain"}).webhook_keys() == ("plain",)


def test_a_value_and_a_file_together_are_refused(tmp_path: Path) -> None:
    text = refusal(tmp_path, {"OTTU_API_KEY": SECRET, "OTTU_API_KEY_FILE": "key"})
    assert text == "OTTU_API_KEY and OTTU_API_KEY_FILE are both set: keep one"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "OTTU_API_KEY_FILE names an empty file"),
        (b" \n\n", "OTTU_API_KEY_FILE names an empty file"),
        (b"\xff\xfe", "OTTU_API_KEY_FILE cannot be read: UnicodeDecodeError"),
        (b"x" * (MAX_SECRET_FILE_BYTES + 1), "OTTU_API_KEY_FILE names a file of over 65536 bytes"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "key").write_bytes(content)
    assert refusal(tmp_path, {"OTTU_API_KEY_FILE": "key"}) == why


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"OTTU_API_KEY_FILE": "."}) == "OTTU_API_KEY_FILE cannot be read: IsADirectoryError"


# --- a running `cardsync dev` ---


def test_a_running_dev_fills_in_what_is_not_set(tmp_path: Path, run_dev: Callable[..., None]) -> None:
    run_dev(database_url="postgresql:///dev", ottu_daily_calls=5, some_later_setting="x")
    settings = read(tmp_path, {"OTTU_DAILY_CALLS": "9"}, "database")
    assert settings.ottu_daily_calls == 9


@pytest.mark.parametrize("mine", [{"OTTU_API_KEY": "k"}, {"OTTU_MERCHANT_ID": "acme.ottu.net"}])
def test_a_simulators_address_never_completes_real_credentials(
    tmp_path: Path, run_dev: Callable[..., None], mine: dict[str, str]
) -> None:
    run_dev(ottu_base_url="http://127.0.0.1:8099", ottu_api_key="dev-key")
    assert "is missing" in refusal(tmp_path, mine, "ottu")
    assert read(tmp_path, {}, "ottu").ottu_url == "http://127.0.0.1:8099"


@pytest.mark.parametrize("lock", [True, False])
def test_a_dev_that_ended_offers_nothing(tmp_path: Path, lock: bool) -> None:
    content = {"pid": os.getpid(), "settings": {"database_url": "postgresql:///dev"}}  # the id runs, as another process
    (tmp_path / ".cardsync").mkdir()
    (tmp_path / ".cardsync" / DEV_FILE).write_text(json.dumps(content))
    if lock:
        (tmp_path / ".cardsync" / DEV_LOCK).touch()
    assert read(tmp_path).database_url is None


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"settings": []}', '{"settings": 1}', "\xff"])
def test_a_file_that_is_not_devs_offers_nothing(tmp_path: Path, run_dev: Callable[..., None], content: str) -> None:
    run_dev()
    (tmp_path / ".cardsync" / DEV_FILE).write_text(content, encoding="latin-1")
    assert read(tmp_path).database_url is None


def test_a_malformed_value_of_devs_is_refused_like_any_other(tmp_path: Path, run_dev: Callable[..., None]) -> None:
    odd: dict[str, Any] = {"ack_status": ["x"], "database_url": 7}
    run_dev(**odd)
    assert "CARDSYNC_ACK_STATUS is wrong" in refusal(tmp_path, {})


def test_webhook_keys_may_be_bound_to_an_environment(tmp_path: Path) -> None:
    given = "production:one, sandbox:two,plain,with:colons"
    assert read(tmp_path, {"OTTU_WEBHOOK_KEYS": given}).webhook_keys() == tuple(k.strip() for k in given.split(","))


def test_a_name_that_is_no_setting_is_found_with_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OTTU_API_KEYS=x\nCARDSYNC_ACK_STATUS=201\n", encoding="utf-8")
    environ = {
        "CARDSYNC_WBE_THREADS": "8",
        "CARDSYNC_SECRET_KEY_FILE": "/x",
        "CARDSYNC_POSTGRES_BIN": "/y",
        "PATH": "/",
    }
    assert unknown_names(environ, tmp_path) == [
        ("CARDSYNC_WBE_THREADS", "CARDSYNC_WEB_THREADS"),
        ("OTTU_API_KEYS", "OTTU_API_KEY"),
    ]
    assert unknown_names({"OTTU_SOMETHING_ELSE": "x"}, tmp_path / "nowhere") == [("OTTU_SOMETHING_ELSE", None)]


def test_the_console_is_found_on_loopback_unless_its_address_is_set(tmp_path: Path) -> None:
    assert read(tmp_path, {}).console_base == "http://127.0.0.1:8001"
    given = read(tmp_path, {"CARDSYNC_CONSOLE_URL": "https://console.example/"})
    assert given.console_base == "https://console.example"
