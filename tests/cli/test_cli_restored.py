"""``cardsync db restored``, what it holds and how that is let go, and receipts of erasures to and from a file."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from sqlalchemy import text

from cardsync.stories import endpoints
from cardsync.stories.endpoints import NewEndpoint
from tests.factories import RING, SECRET, CustomerFactory, make_card

pytestmark = pytest.mark.usefixtures("bound_factories")


@pytest.fixture
def things(cardsync, engine):
    """One of each kind that is held."""
    cardsync("keys", "create", "--name", "billing", "--scope", "cards:read")
    cardsync("operators", "invite", "--name", "ann", "--role", "admin")
    endpoints.add(engine, NewEndpoint("orders", "https://orders.example/x", "notifications"), RING)
    card = make_card(CustomerFactory(customer_id="cust-1"), token="9999000000000001").card_id
    cardsync("customers", "erase", "cust-2")
    asked = json.loads(cardsync("deletions", "request", str(card), "--json").stdout)
    return asked["deletion_id"]


def facts(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def held(found):
    return [
        found[name] for name in ("keys_held", "endpoints_held", "operators_disabled", "deletions_held", "erasures_held")
    ]


def checks(cardsync, name):
    found = json.loads(cardsync("doctor", "--offline", "--json").stdout)
    return [one for one in (found["checks"] if isinstance(found, dict) else found) if one["name"] == name]


def test_without_yes_it_says_what_it_would_do_and_does_nothing(cardsync, engine, things):
    rehearsed = cardsync("db", "restored", "--json")
    assert (facts(rehearsed)["done"], held(facts(rehearsed))) == (False, [1, 1, 1, 1, 1])
    assert "--yes" in rehearsed.stderr
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM registry.feed_epochs")).scalar_one() == 1
    assert facts(cardsync("keys", "list", "--json"))[0]["revoked_at"] is None
    assert checks(cardsync, "restored") == []


def test_what_it_holds_is_named_by_the_doctor_and_let_go_by_commands(cardsync, engine, things):
    done = cardsync("db", "restored", "--yes", "--json")
    assert (facts(done)["done"], held(facts(done))) == (True, [1, 1, 1, 1, 1])
    assert "cardsync keys release" in done.stderr
    (check,) = checks(cardsync, "restored")
    assert check["status"] == "warning"
    assert "1 keys, 1 endpoints, 1 deletions, 1 erasures" in check["found"]
    assert any("may have removed it since" in one["found"] for one in checks(cardsync, "endpoints"))

    (key,) = facts(cardsync("keys", "list", "--json"))
    assert key["held_at"] is not None
    assert cardsync("keys", "release").exit_code == 2
    assert cardsync("keys", "release", key["key_id"], "--all").exit_code == 2
    assert cardsync("keys", "release", key["key_id"]).exit_code == 0
    assert cardsync("keys", "release", key["key_id"]).exit_code == 1
    assert "0 keys" in cardsync("keys", "release", "--all").stdout
    assert cardsync("endpoints", "enable", "orders").exit_code == 0
    assert cardsync("deletions", "cancel", things).exit_code == 0
    assert cardsync("customers", "erase", "cust-2").exit_code == 0
    assert checks(cardsync, "restored") == []
    assert cardsync("db", "check").exit_code == 0


def test_a_person_reads_it_without_json(cardsync, things):
    result = cardsync("db", "restored", "--yes")
    assert result.exit_code == 0
    assert "keys_held" in result.stdout
    assert "cardsync erasures import FILE" in result.stderr


@pytest.mark.parametrize("moment", ["yesterday", "2026-11-25T10:20:30", "2999-01-01T00:00:00Z"])
def test_a_moment_that_is_none_or_lies_ahead_is_wrong_usage(cardsync, moment):
    result = cardsync("db", "restored", "--yes", "--at", moment)
    assert (result.exit_code, "--at" in result.stderr) == (2, True)


def test_the_moment_is_kept_with_the_epoch(cardsync, engine):
    facts(cardsync("db", "restored", "--yes", "--json", "--at", "2026-01-02T03:04:05Z"))
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT restored_to FROM registry.feed_epochs WHERE epoch > 1")).scalar_one()
    assert kept == dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def test_a_database_that_is_behind_is_refused(cardsync, engine):
    with engine.begin() as connection:
        connection.execute(text("UPDATE cardsync.alembic_version SET version_num = '0037'"))
    result = cardsync("db", "restored", "--yes")
    assert (result.exit_code, "cardsync db upgrade" in result.stderr) == (1, True)


@pytest.fixture
def erased(engine):
    """An erasure that is done."""
    make_card(CustomerFactory(customer_id="cust-1"), token="9999000000000001", name_on_card="JOY OF THE TESTS")
    with engine.begin() as connection:
        connection.execute(
            text("""
                INSERT INTO cardsync.erasures (customer_id, status, requested_by, finished_at, due_at)
                VALUES ('cust-1', 'done', 'support', clock_timestamp() + interval '1 second', NULL)
            """)
        )


def forget(engine):
    """The database is as before the erasure."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM cardsync.erasures"))


def test_receipts_go_to_a_file_and_erase_again(cardsync, engine, erased, tmp_path):
    exported = cardsync("erasures", "export")
    assert exported.exit_code == 0
    assert "JOY" not in exported.stdout
    file = tmp_path / "receipts"
    file.write_text(exported.stdout + "\nnot a receipt\n" + "x" * 10_000 + "\n" + exported.stdout)
    forget(engine)
    result = cardsync("erasures", "import", str(file), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"erased": 1, "known": 1, "open": [], "bad_lines": 2}
    assert "line 3: not a receipt" in result.stderr
    assert "line 4: not a receipt" in result.stderr
    with engine.connect() as connection:
        row = connection.execute(text("SELECT status, name_on_card, removed_because FROM registry.cards")).one()
        assert tuple(row) == ("removed", None, "requested")
        rung = connection.execute(text("SELECT rung_at, lane FROM cardsync.customers")).one()
        assert tuple(rung) == (None, "deletion")  # a sweep rings, since this command cannot


def test_a_receipt_that_another_key_sealed_changes_nothing(cardsync, engine, erased, monkeypatch):
    older = "an older secret of the tests: 32 bytes"
    monkeypatch.setenv("CARDSYNC_SECRET_KEY", older)
    exported = cardsync("erasures", "export").stdout
    forget(engine)
    monkeypatch.setenv("CARDSYNC_SECRET_KEY", SECRET.decode())
    result = cardsync("erasures", "import", "-", stdin=exported)
    assert (result.exit_code, "0 persons" in result.stdout) == (1, True)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT status FROM registry.cards")).scalar_one() == "active"
    monkeypatch.setenv("CARDSYNC_PREVIOUS_SECRET_KEYS", older)
    assert cardsync("erasures", "import", "-", stdin=exported).exit_code == 0


def test_the_export_can_begin_at_a_moment(cardsync, erased):
    assert cardsync("erasures", "export", "--since", "2999-01-01T00:00:00Z").stdout == ""
    assert cardsync("erasures", "export", "--since", "2020-01-01T00:00:00Z").stdout.count("\n") == 1
