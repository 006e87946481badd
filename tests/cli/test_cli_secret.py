"""``cardsync secret``: older secret keys are retired by an operator's word alone, and open nothing from then on."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from cardsync.ciphers import KeyRing
from cardsync.errors import Misconfigured
from cardsync.store.access import secret_keys
from tests.factories import SECRET

OLDER = b"an older secret, of 32 bytes or more"


@pytest.fixture
def rotated(engine):
    """A database that was made with an older key and has learned the newer one from it."""
    bind(engine, KeyRing(OLDER))
    bind(engine, KeyRing(SECRET, (OLDER,)))


def bind(engine, ring):
    with engine.begin() as connection:
        secret_keys.fingerprint_key(connection, ring)


def known(engine):
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM cardsync.secret_keys")).scalar_one()


def test_nothing_is_retired_without_a_word(cardsync, engine, rotated):
    refused = cardsync("secret", "retire")
    assert (refused.exit_code, "--yes" in refused.stderr) == (2, True)
    assert known(engine) == 2
    bind(engine, KeyRing(OLDER))


def test_retired_keys_open_nothing_and_the_newest_does(cardsync, engine, rotated):
    done = cardsync("secret", "retire", "--yes")
    assert done.exit_code == 0, done.output
    assert "1 older keys were retired" in done.stdout
    assert known(engine) == 1
    with pytest.raises(Misconfigured):
        bind(engine, KeyRing(OLDER))
    bind(engine, KeyRing(SECRET))
    assert "0 older keys were retired" in cardsync("secret", "retire", "--yes").stdout
    for one in (OLDER, SECRET):
        assert one.decode() not in done.output


def test_a_process_with_only_the_older_key_retires_nothing(cardsync, engine, rotated, monkeypatch):
    monkeypatch.setenv("CARDSYNC_SECRET_KEY", "another secret, of 32 bytes or more, that it never knew")
    assert cardsync("secret", "retire", "--yes").exit_code != 0
    assert known(engine) == 2
