"""Settings: where each value comes from, what is refused in one line, and that no secret is printed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cardsync.errors import Misconfigured
from cardsync.settings import DEV_FILE, DEV_LOCK, MAX_SECRET_FILE_BYTES, NAMES, Need, Settings, load

SECRET = "fake-secret-" + "s" * 32
FULL = {
    "CARDSYNC_DATABASE_URL": f"postgresql://app:{SECRET}@127.0.0.1/cards",
    "CARDSYNC_BROKER_URL": f"amqp://app:{SECRET}@127.0.0.1//",
    "CARDSYNC_SECRET_KEY": SECRET,
    "OTTU_MERCHANT_ID": "acme.ottu.net",
    "OTTU_API_KEY": SECRET,
    "OTTU_WEBHOOK_KEYS": f"{SECRET},another-{SECRET}",
}
ALL_NEEDS: tuple[Need, ...] = ("database", "broker", "secret", "webhook", "ottu")


def read(folder: Path, environ: Mapping[str, str] | None = None, *needs: Need) -> Settings:
    return load(*needs, environ=environ or {}, cwd=folder)


def refusal(folder: Path, environ: Mapping[str, str], *needs: Need) -> str:
    """The one line with which the settings are refused; it shows no secret."""
    with pytest.raises(Misconfigured) as caught:
        read(folder, environ, *needs)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    return text


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
        "CARDSYNC_DATA_DIR": "elsewhere",
        "CARDSYNC_SPOOL_MAX_FILES": "10",
        "CARDSYNC_SPOOL_MAX_BYTES": "8192",
        "CARDSYNC_ACK_STATUS": "201",
        "CARDSYNC_MAX_BODY_BYTES": "2048",
        "CARDSYNC_LOG_FORMAT": "json",
        "CARDSYNC_LOG_LEVEL": "debug",
        "CARDSYNC_WEB_THREADS": "3",
        "CARDSYNC_WORKER_THREADS": "4",
        "CARDSYNC_CONFIRM_S": "1.5",
        "CARDSYNC_LOOK_AGAIN_S": "60",
        "CARDSYNC_REMOVAL_BRAKE_SHARE": "0.5",
        "CARDSYNC_REMOVAL_BRAKE_FLOOR": "7",
        "CARDSYNC_INBOX_CONTENT_DAYS": "8",
        "CARDSYNC_INBOX_DAYS": "9",
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
    for field, name in NAMES.items():
        if name in values and name not in ("CARDSYNC_DATA_DIR", "OTTU_PASSWORD"):
            assert str(getattr(settings, field)) == str(type(getattr(settings, field))(values[name]))
    assert settings.data_dir == tmp_path / "elsewhere"
    assert settings.secret_bytes() == SECRET.encode()
    assert settings.webhook_keys() == (SECRET, f"another-{SECRET}")
    assert settings.ottu_url == "http://127.0.0.1:8099"


def test_a_notification_sheds_its_content_no_later_than_it_goes(tmp_path: Path) -> None:
    assert read(tmp_path, {"CARDSYNC_INBOX_CONTENT_DAYS": "90"}).inbox_days == 90
    text = refusal(tmp_path, {"CARDSYNC_INBOX_CONTENT_DAYS": "91"})
    assert text == "CARDSYNC_INBOX_CONTENT_DAYS must not be more than CARDSYNC_INBOX_DAYS"


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
