"""Wrong settings: each process ends at once, in one line that names the setting and shows no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from cardsync.ciphers import KeyRing
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store.access.secret_keys import check_secret
from tests.e2e.processes import run

SECRET = "a-secret-that-may-never-be-shown-anywhere"
PASSWORD = "pass-word-in-an-address"
GOOD = {
    "CARDSYNC_DATABASE_URL": f"postgresql://cardsync:{PASSWORD}@127.0.0.1:1/none",
    "CARDSYNC_BROKER_URL": f"redis://:{PASSWORD}@127.0.0.1:1/0",
    "CARDSYNC_SECRET_KEY": SECRET,
    "OTTU_MERCHANT_ID": "acme.example.test",
    "OTTU_API_KEY": SECRET,
    "OTTU_WEBHOOK_KEYS": SECRET,
}
ALL = ("web", "worker", "beat")


@pytest.mark.parametrize(
    ("wrong", "commands"),
    [
        ({"CARDSYNC_DATABASE_URL": ""}, ALL),
        ({"CARDSYNC_DATABASE_URL": f"mysql://u:{PASSWORD}@127.0.0.1/x"}, ALL),
        ({"CARDSYNC_BROKER_URL": f"kafka://:{PASSWORD}@127.0.0.1"}, ALL),
        ({"CARDSYNC_SECRET_KEY": PASSWORD}, ("web", "worker")),
        ({"OTTU_WEBHOOK_KEYS": ""}, ("web",)),
        ({"OTTU_API_KEY": ""}, ("worker",)),
        ({"OTTU_BASE_URL": f"http://{PASSWORD}.example.test"}, ("worker",)),
        ({"CARDSYNC_ACK_STATUS": "302"}, ("web",)),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else next(iter(value)),
)
def test_a_wrong_setting_ends_the_process_in_one_line(
    tmp_path: Path, wrong: dict[str, str], commands: tuple[str, ...]
) -> None:
    (setting,) = wrong
    for command in commands:
        ended = run(tmp_path, {**GOOD, **wrong}, command)
        assert ended.returncode == 2, ended.stderr
        assert ended.stdout == ""
        assert ended.stderr.count("\n") == 1
        assert setting in ended.stderr
        assert not any(secret in ended.stderr for secret in (SECRET, PASSWORD))


def test_another_secret_key_than_the_databases_ends_web_and_worker(
    tmp_path: Path, postgres: EmbeddedPostgres, database_url: str, engine: Engine
) -> None:
    with engine.begin() as connection:
        check_secret(connection, KeyRing(SECRET[::-1].encode()))  # the first to use the database sets its key
    settings = {**GOOD, "CARDSYNC_DATABASE_URL": database_url}
    for command in (["web", "--port", "0"], ["worker"]):
        ended = run(tmp_path, settings, *command)
        assert ended.returncode == 2, ended.stderr
        assert "CARDSYNC_SECRET_KEY" in ended.stderr
        assert not any(secret in ended.stderr for secret in (SECRET, SECRET[::-1], postgres.password))
