"""A large database, made by SQL within minutes: millions of customers, cards, notifications, lists, changes and deletions.

    python benchmarks/big_registry.py DATABASE_URL [--customers 1000000]

``DATABASE_URL`` is an empty database at the newest migration (``cardsync db upgrade``), and its login a superuser: triggers and
foreign keys are off while rows are made, since a trigger for each row takes an hour. Everything grows with the customers: two
cards for each, four notifications, two lists, two changes; one deletion for ten. Tokens are made up, and every hash in the
receipts' chain too, so ``cardsync deletions verify`` says that it is broken.

The rows are of the mixture that pages are asked about: one notification of a thousand failed, some deletions are blocked, held
or under way, one customer of five thousand is held by the brake. ``--lopsided`` then makes what a bad week leaves: much of
everything failed, waits or is held, all of it of ``production``, and some combinations of what a page filters by have no row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

import click
import psycopg

DAYS: Final = 90  # notifications are as old as that at most: then their rows go
# Rows of small tables: as many at any size.
AUDITS: Final = 50_000
SOME: Final = 2_000

_TABLES: Final = (
    "customers",
    "cards",
    "events",
    "observations",
    "card_changes",
    "deletions",
    "deletion_steps",
    "receipt_chain",
    "deliveries",
    "agreements",
)

# Of the statements: %(n)s is the number of customers. Card number n belongs to customer (n + 1) / 2, and every fifth is removed.
_FILL: Final = (
    """
    INSERT INTO cardsync.customers (
        id, environment, customer_id, first_seen_at, reconciled_at, due_at, lane, cadence, removals_held, failures,
        list_oddities
    ) OVERRIDING SYSTEM VALUE
    SELECT n, CASE WHEN n % 50 = 0 THEN 'sandbox' ELSE 'production' END, 'customer-' || n,
           now() - interval '1 year' + n * interval '1 year' / %(n)s,
           CASE WHEN n % 20 <> 0 THEN now() - n * interval '21 days' / %(n)s END,
           CASE WHEN n % 1000 = 1 THEN now() + interval '1 hour' END, CASE WHEN n % 1000 = 1 THEN 'hint' END,
           n % 12, n % 5000 = 7, CASE WHEN n % 1000 = 1 THEN 1 ELSE 0 END,
           CASE WHEN n % 9000 = 5 THEN '{no_token}'::text[] ELSE '{}' END
    FROM generate_series(1, %(n)s) AS n
    """,
    """
    INSERT INTO cardsync.cards (
        card_id, customer, fingerprint, token, status, brand, number, last4, expires_on, name_on_card, is_preferred,
        first_seen_at, confirmed_at, removed_at, removed_because, cause
    )
    SELECT md5('card-' || n)::uuid, (n + 1) / 2, sha256(convert_to('card-' || n, 'UTF8')),
           CASE WHEN n % 5 <> 0 THEN 'big-' || n END, CASE WHEN n % 5 <> 0 THEN 'active' ELSE 'removed' END, 'VISA',
           '**** 4242', '4242', (now() + interval '1 month' * (n % 60))::date, 'A PAYER', n % 2 = 0,
           now() - interval '300 days', now() - interval '1 day', CASE WHEN n % 5 = 0 THEN now() END,
           CASE WHEN n % 5 = 0 THEN 'requested' END, 'list'
    FROM generate_series(1, 2 * %(n)s) AS n
    """,
    f"""
    INSERT INTO cardsync.events (
        event_id, evidence_no, body_hash, received_at, status, kind, ignored_because, environment, customer_id, session_id,
        reference_number, result, state, payment_type, scheme, key_id, card_id, facts, settled_at, last_error, shed_at, due_at
    )
    SELECT md5('event-' || n)::uuid, n, sha256(convert_to('event-' || n, 'UTF8')), at, status, 'payment',
           CASE WHEN status = 'ignored' THEN 'no card' END, CASE WHEN c % 50 = 0 THEN 'sandbox' ELSE 'production' END,
           'customer-' || c, CASE WHEN NOT shed THEN md5(n::text) || '-' || n END, CASE WHEN NOT shed THEN 'reference-' || n END,
           'success', 'paid', 'one_off', 'standard', '0123456789ab', md5('card-' || 2 * c)::uuid,
           CASE WHEN status IN ('failed', 'pending') THEN '{{}}'::jsonb END,
           CASE WHEN status IN ('done', 'ignored') THEN at END, CASE WHEN status = 'failed' THEN 'UnusableCard: too long' END,
           CASE WHEN shed AND status IN ('done', 'ignored') THEN at + interval '30 days' END, at
    FROM generate_series(1, 4 * %(n)s) AS n
    CROSS JOIN LATERAL (
        SELECT n % %(n)s + 1 AS c, now() - interval '{DAYS} days' * (1 - n / (4.0 * %(n)s)) AS at,
               n < 2.6 * %(n)s AS shed,
               CASE WHEN n % 1000 = 0 THEN 'failed' WHEN n % 50 = 7 THEN 'ignored' WHEN n > 3.999 * %(n)s THEN 'pending'
                    ELSE 'done' END AS status
    ) AS made
    """,
    """
    INSERT INTO cardsync.observations (observation_no, customer, lane, asked_at, finished_at, outcome, calls, listed)
    SELECT n, n % %(n)s + 1, CASE WHEN n % 3 = 0 THEN 'hint' ELSE 'sweep' END,
           now() - interval '21 days' * (1 - n / (2.0 * %(n)s)), now(), 'unchanged', 1, 2
    FROM generate_series(1, 2 * %(n)s) AS n
    """,
    """
    INSERT INTO cardsync.card_changes (seq, at, card_id, customer, change, fields, cause)
    SELECT n, now() - interval '300 days' * (1 - n / (2.0 * %(n)s)), md5('card-' || n)::uuid, (n + 1) / 2, 'added', '{}', 'list'
    FROM generate_series(1, 2 * %(n)s) AS n
    """,
    "UPDATE cardsync.feed_head SET seq = 2 * %(n)s",
    # Of removed cards (every fifth); one of a hundred ended badly, one of a thousand is under way or held.
    """
    INSERT INTO cardsync.deletions (
        deletion_id, card_id, life, customer, phase, requested_by, asker, requested_at, since_no, proof_no, called_at, due_at,
        finished_at, error, attempts
    )
    SELECT md5('deletion-' || n)::uuid, md5('card-' || 20 * n)::uuid, 1, 10 * n, phase, 'key:shop', 'key:shop', at, n,
           CASE WHEN phase = 'done' THEN n + 1 END, CASE WHEN phase <> 'asked' THEN at END,
           CASE WHEN phase = 'asked' AND n % 2 = 0 THEN 'infinity'::timestamptz WHEN phase = 'asked' THEN at END,
           CASE WHEN phase IN ('done', 'blocked', 'failed') THEN at + interval '1 minute' END,
           CASE WHEN phase IN ('blocked', 'failed') THEN 'Ottu: HTTP 409' END, 1
    FROM generate_series(1, %(n)s / 10) AS n
    CROSS JOIN LATERAL (
        SELECT now() - interval '300 days' * (1 - n * 10.0 / %(n)s) AS at,
               CASE WHEN n % 200 = 0 THEN 'failed' WHEN n % 200 = 100 THEN 'blocked' WHEN n % 1000 IN (7, 8) THEN 'asked'
                    ELSE 'done' END AS phase
    ) AS made
    """,
    """
    INSERT INTO cardsync.deletion_steps (step_id, deletion_id, at, step, detail) OVERRIDING SYSTEM VALUE
    SELECT 3 * n + k, md5('deletion-' || n)::uuid, now() - interval '300 days' * (1 - n * 10.0 / %(n)s),
           (ARRAY['asked', 'called', 'absent'])[k + 1], '{"requested_by": "key:shop"}'
    FROM generate_series(1, %(n)s / 10) AS n, generate_series(0, 2) AS k
    """,
    """
    INSERT INTO cardsync.receipt_chain (step_no, step_id, hash)
    SELECT n - 2, n, sha256(convert_to(n::text, 'UTF8')) FROM generate_series(3, 3 * (%(n)s / 10) + 2) AS n
    """,
    "UPDATE cardsync.receipt_head SET step_no = 3 * (%(n)s / 10)",
    """
    INSERT INTO cardsync.receipt_seals (step_no, hash, sealed_at, seal)
    SELECT n, sha256(''), now(), sha256('') FROM generate_series(100, 3 * (%(n)s / 10), 100) AS n
    """,
    """
    INSERT INTO cardsync.endpoints (endpoint_id, name, url, kind, secret, cursor_seq) VALUES
        (md5('shop')::uuid, 'shop', 'https://shop.example/hook', 'notifications', 'x', NULL),
        (md5('stock')::uuid, 'stock', 'https://stock.example/hook', 'changes', 'x', 0)
    """,
    """
    INSERT INTO cardsync.deliveries (endpoint_id, event_id, status, made_at, finished_at, last_status, attempts)
    SELECT md5('shop')::uuid, md5('event-' || n)::uuid, status, at, CASE WHEN status <> 'pending' THEN at END, 200, 1
    FROM generate_series(2 * %(n)s, 4 * %(n)s) AS n
    CROSS JOIN LATERAL (
        SELECT CASE WHEN n % 2000 = 0 THEN 'failed' WHEN n > 3.999 * %(n)s THEN 'pending' ELSE 'done' END AS status,
               now() - interval '90 days' * (1 - n / (4.0 * %(n)s)) AS at
    ) AS made
    """,
    """
    INSERT INTO cardsync.agreements (environment, agreement_id, card_id, since_no)
    SELECT 'production', 'agreement-' || n, md5('card-' || (5 * n + 1))::uuid, n FROM generate_series(1, %(n)s / 20) AS n
    """,
)
_SMALL: Final = (
    f"""
    INSERT INTO cardsync.audits (customer, judged_at, verdict, observation_no, causes)
    SELECT n % %(n)s + 1, now() - n * interval '20 seconds', CASE WHEN n % 500 = 0 THEN 'wrong' ELSE 'right' END, n,
           CASE WHEN n % 500 = 0 THEN ARRAY['lag'] ELSE ARRAY[]::text[] END
    FROM generate_series(1, {AUDITS}) AS n
    """,
    """
    INSERT INTO cardsync.call_minutes
    SELECT date_trunc('minute', now()) - n * interval '1 minute', lane, 9
    FROM generate_series(0, 1600) AS n, unnest(ARRAY['deletion', 'hint', 'read', 'retry', 'sweep', 'audit', 'repeat']) AS lane
    """,
    """
    INSERT INTO cardsync.walks (began_at, began_by, expected, last_customer)
    VALUES (now() - interval '1 day', 'x', %(n)s, %(n)s)
    """,
    "INSERT INTO cardsync.imports (content_hash, lines) SELECT sha256(n::text::bytea), n FROM generate_series(1, 20) AS n",
    "INSERT INTO cardsync.operators (name, role) VALUES ('Big', 'admin')",
    f"""
    INSERT INTO cardsync.operations (kind, subject, operator_id, actor, status, finished_at)
    SELECT 'replay_event', n::text, operator_id, 'Big', 'done', now() FROM cardsync.operators, generate_series(1, {SOME}) AS n
    """,
    f"""
    INSERT INTO cardsync.operator_actions (operator_id, actor, action, kind, subject)
    SELECT operator_id, 'Big', 'look_now', 'customer', n::text FROM cardsync.operators, generate_series(1, {SOME}) AS n
    """,
    f"""
    INSERT INTO cardsync.erasures (customer_id, status, requested_by, finished_at, due_at)
    SELECT 'customer-' || n, 'done', 'cli:x', now(), NULL FROM generate_series(1, {SOME}) AS n
    """,
    """
    INSERT INTO cardsync.erasure_deletions (erasure_id, deletion_id)
    SELECT erasure_id, md5('deletion-' || k)::uuid FROM cardsync.erasures, generate_series(1, 20) AS k
    """,
    "UPDATE cardsync.customers SET list_oddities = '{incomplete}' WHERE id % (%(n)s / 100) = 0",
    "INSERT INTO cardsync.deletion_askers (asker, day, asked, held_since) VALUES ('key:shop', current_date, 1000, now())",
    "SELECT setval('cardsync.observation_no', 5 * %(n)s)",
    "SELECT setval(pg_get_serial_sequence('cardsync.customers', 'id'), %(n)s)",
    "SELECT setval(pg_get_serial_sequence('cardsync.deletion_steps', 'step_id'), 3 * (%(n)s / 10) + 3)",
)
# Notifications by their number: done (with both environments among them), failed, pending, ignored; the last three of production.
_LOPSIDED: Final = (
    """
    UPDATE cardsync.events SET environment = 'production', settled_at = NULL, shed_at = NULL, facts = '{}', due_at = received_at,
        ignored_because = NULL, status = CASE WHEN evidence_no < 2.75 * %(n)s THEN 'failed' ELSE 'pending' END,
        last_error = CASE WHEN evidence_no < 2.75 * %(n)s THEN 'UnusableCard: too long' END
    WHERE evidence_no BETWEEN 2 * %(n)s AND 3.5 * %(n)s
    """,
    """
    UPDATE cardsync.events SET environment = 'production', settled_at = received_at, facts = NULL, last_error = NULL,
        ignored_because = 'no card', status = 'ignored'
    WHERE evidence_no > 3.5 * %(n)s OR status = 'failed' AND evidence_no < 2 * %(n)s
    """,
    "UPDATE cardsync.deletions SET phase = 'blocked' WHERE phase = 'failed'",
    """
    INSERT INTO cardsync.deletions (
        deletion_id, card_id, life, customer, phase, requested_by, asker, requested_at, since_no, called_at, due_at, finished_at,
        error, attempts
    )
    SELECT md5(made.phase || coalesce(error, '') || n)::uuid, md5('card-' || n)::uuid, 1, (n + 1) / 2, made.phase, 'key:shop',
           'key:shop', at, n, CASE WHEN made.phase <> 'asked' THEN at END, due_at, CASE WHEN due_at IS NULL THEN at END, error, 1
    FROM generate_series(1, cast(0.75 * %(n)s AS integer)) AS n
    CROSS JOIN (VALUES
        ('asked', NULL, 'infinity'::timestamptz), ('blocked', 'Ottu: HTTP 409', NULL), ('failed', 'cancelled', NULL)
    ) AS made (phase, error, due_at)
    CROSS JOIN LATERAL (SELECT now() - interval '1 day' * (1 - n / (0.75 * %(n)s)) AS at) AS moments
    WHERE n % 20 <> 0
    """,
    """
    UPDATE cardsync.deliveries SET status = CASE WHEN delivery_id % 2 = 0 THEN 'failed' ELSE 'pending' END,
        finished_at = CASE WHEN delivery_id % 2 = 0 THEN made_at END
    """,
    """
    INSERT INTO cardsync.erasures (customer_id, status, requested_by, finished_at, due_at)
    SELECT 'erased-' || n, 'done', 'cli:x', now(), NULL FROM generate_series(1, cast(0.75 * %(n)s AS integer)) AS n
    """,
    "UPDATE cardsync.customers SET removals_held = true WHERE id < 0.75 * %(n)s",
)
_INDEXES: Final = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index AS i
    WHERE indrelid = ANY(%s::regclass[]) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
"""


def fill(database_url: str, customers: int, say: Callable[[str], None] = lambda _: None) -> None:
    """Make the rows; indexes are made after them, which takes a quarter of the time."""
    names = [f"cardsync.{table}" for table in _TABLES]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET maintenance_work_mem = '512MB'")
        indexes = connection.execute(_INDEXES, (names,)).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        for statement in _FILL:
            say(" ".join(statement.split())[:60])
            _run(connection, statement, customers)
        for name, definition in indexes:
            say(name)
            connection.execute(definition)
        connection.execute("SET session_replication_role = origin")
        for statement in _SMALL:
            _run(connection, statement, customers)
        say("VACUUM ANALYZE")
        connection.execute("VACUUM ANALYZE")


def make_lopsided(database_url: str, customers: int, say: Callable[[str], None] = lambda _: None) -> None:
    """Of a registry that ``fill`` made, let a large part of everything fail, wait or be held."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        for statement in _LOPSIDED:
            say(" ".join(statement.split())[:60])
            _run(connection, statement, customers)
        say("VACUUM ANALYZE")
        connection.execute("VACUUM ANALYZE")


def _run(connection: psycopg.Connection[tuple[object, ...]], statement: str, customers: int) -> None:
    """The number is written into the text: it stands where a parameter has no type, and ``%`` is SQL's remainder here."""
    connection.execute(statement.replace("%(n)s", str(customers)).encode())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("database_url")
@click.option("--customers", default=1_000_000, show_default=True, type=click.IntRange(1_000), help="Scale of it all.")
@click.option("--lopsided", is_flag=True, help="Let a large part of it fail, wait or be held.")
def main(database_url: str, customers: int, lopsided: bool) -> None:
    """Fill an empty database at the newest migration with a large registry."""
    fill(database_url, customers, lambda what: click.echo(what, err=True))
    if lopsided:
        make_lopsided(database_url, customers, lambda what: click.echo(what, err=True))


if __name__ == "__main__":
    sys.exit(main())
