"""A restored backup begins a new epoch of the feed, and what it brought back is held until a person looks (``cardsync db restored``).

The feed's numbers belong to an *epoch*. A restore takes back changes that consumers have read. From then on another epoch counts,
whose numbers begin far above any that were given before, so that no consumer's number hides a new change. The gap between them is
kept: a consumer whose number lies in it read changes that are gone.

An API key is held by ``revoked_at`` and ``held_at`` together, so that code of the release before, and the function that gives
tokens, refuse it as they refuse a revoked one. An endpoint is held by being disabled, a deletion by never being due.

Revision: 0038, after 0037. Old code runs beside it. It shows no epoch, and does not refuse a number of an epoch that ended.
"""

from __future__ import annotations

from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

# The first epoch has the number 1. A later one has the second of its beginning, so that no two restores of one backup share one.
TABLES = """
CREATE TABLE cardsync.feed_epochs (
    epoch bigint CONSTRAINT feed_epochs_pkey PRIMARY KEY CONSTRAINT feed_epochs_epoch_counted CHECK (epoch > 0),
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    restored_to timestamptz,
    before_seq bigint NOT NULL,
    after_seq bigint NOT NULL,
    CONSTRAINT feed_epochs_numbers_rise CHECK (before_seq >= 0 AND after_seq >= before_seq)
);
INSERT INTO cardsync.feed_epochs (epoch, before_seq, after_seq) VALUES (1, 0, 0);
CREATE TRIGGER feed_epochs_append_only BEFORE UPDATE OR DELETE ON cardsync.feed_epochs
FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_change();
CREATE TRIGGER feed_epochs_never_emptied BEFORE TRUNCATE ON cardsync.feed_epochs EXECUTE FUNCTION cardsync.refuse_change();

ALTER TABLE cardsync.api_keys ADD COLUMN IF NOT EXISTS held_at timestamptz;
ALTER TABLE cardsync.api_keys ADD CONSTRAINT api_keys_held_is_revoked CHECK (held_at IS NULL OR revoked_at IS NOT NULL);
"""

KNOWN = {
    "endpoints_reason_known": (
        "endpoints",
        "disabled_because IN ('operator', 'gone', 'failing'{more})",
        ", 'restored'",
    ),
    "deletion_steps_step_known": (
        "deletion_steps",
        "step IN ('asked', 'asked_again', 'called', 'answered', 'no_answer', 'listed', 'absent', 'unlisted', 'done', 'blocked', "
        "'failed', 'unlocked', 'replayed'{more})",
        ", 'held'",
    ),
}

# Every ring of the feed says which epoch it is of. The table has one row and one more for each restore.
EXCHANGE = r"""
DO $do$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT pg_get_functiondef(p.oid) AS made
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'cardsync' AND position($was${before}$was$ IN p.prosrc) > 0
    LOOP
        EXECUTE replace(one.made, $was${before}$was$, $now${after}$now$);
    END LOOP;
END
$do$
"""
SILENT = "cardsync.ring('registry_card_changes', '')"
SAYS_EPOCH = "cardsync.ring('registry_card_changes', (SELECT max(e.epoch)::text FROM cardsync.feed_epochs AS e))"

_VIEW = """
SELECT f.seq, f.at, f.card_id, o.environment, o.customer_id, f.change, f.fields, f.cause{more}
FROM cardsync.card_changes AS f JOIN cardsync.customers AS o ON o.id = f.customer
"""
_EPOCH = ", (SELECT max(e.epoch) FROM cardsync.feed_epochs AS e WHERE e.after_seq < f.seq) AS epoch"

# A reader who selects no epoch pays nothing for it.
VIEWS = f"""
CREATE OR REPLACE VIEW registry.card_changes AS {_VIEW.format(more=_EPOCH)};
ALTER VIEW registry.card_changes SET (security_barrier = true);
COMMENT ON COLUMN registry.card_changes.epoch IS 'Its epoch: a restored backup begins another one. See registry.feed_epochs.';
COMMENT ON COLUMN registry.card_changes.seq IS
    'Its number: without gaps within an epoch, in commit order. Keep the last one that you handled, with its epoch.';

CREATE VIEW registry.feed_epochs AS SELECT epoch, began_at, restored_to, before_seq, after_seq FROM cardsync.feed_epochs;
COMMENT ON VIEW registry.feed_epochs IS
    'The epochs of the feed; the highest one counts. In another one than before: read all cards again, and go on after its after_seq.';
COMMENT ON COLUMN registry.feed_epochs.epoch IS 'Its number, which rises.';
COMMENT ON COLUMN registry.feed_epochs.began_at IS 'When it began: when an operator said that a backup was restored.';
COMMENT ON COLUMN registry.feed_epochs.restored_to IS 'The moment that the backup was of, if the operator said it.';
COMMENT ON COLUMN registry.feed_epochs.before_seq IS 'The last number of the epoch before.';
COMMENT ON COLUMN registry.feed_epochs.after_seq IS
    'Its own numbers are higher than this one. Numbers between the two were never given here: they are of changes that are gone.';
"""
# A view loses no column but with itself, and with itself its comments.
BEFORE = f"""
DO $do$
DECLARE
    said jsonb;
    one record;
BEGIN
    SELECT jsonb_object_agg(a.attname, col_description(a.attrelid, a.attnum)) INTO said
    FROM pg_attribute AS a
    WHERE a.attrelid = 'registry.card_changes'::regclass AND a.attnum > 0 AND a.attname NOT IN ('epoch', 'seq');
    DROP VIEW registry.feed_epochs;
    DROP VIEW registry.card_changes;
    CREATE VIEW registry.card_changes AS {_VIEW.format(more="")};
    FOR one IN SELECT * FROM jsonb_each_text(said) LOOP
        EXECUTE format('COMMENT ON COLUMN registry.card_changes.%I IS %L', one.key, one.value);
    END LOOP;
END
$do$;
COMMENT ON COLUMN registry.card_changes.seq IS
    'Its number: without gaps, in commit order. Keep the last one that you handled.';
COMMENT ON VIEW registry.card_changes IS
    'Append-only, without gaps, in commit order: poll WHERE seq > last ORDER BY seq; LISTEN registry_card_changes.';
GRANT SELECT ON registry.card_changes TO cardsync_reader, cardsync_charger, cardsync_deleter, cardsync_web, cardsync_worker,
    cardsync_console;
DROP TABLE cardsync.feed_epochs;
ALTER TABLE cardsync.api_keys DROP COLUMN held_at;
"""


def _let_be_known(*, more: bool) -> None:
    """Checks that let one more word pass, or no longer."""
    for name, (table, check, word) in KNOWN.items():
        op.execute(f"ALTER TABLE cardsync.{table} DROP CONSTRAINT {name}")
        said = check.format(more=word if more else "")
        op.execute(f"ALTER TABLE cardsync.{table} ADD CONSTRAINT {name} CHECK ({said}) NOT VALID")


def upgrade() -> None:
    op.execute(TABLES)
    _let_be_known(more=True)
    op.execute(EXCHANGE.format(before=SILENT, after=SAYS_EPOCH))
    op.execute(VIEWS)
    with op.get_context().autocommit_block():
        for name, (table, _, _) in KNOWN.items():
            op.execute(f"ALTER TABLE cardsync.{table} VALIDATE CONSTRAINT {name}")


def downgrade() -> None:
    op.execute(EXCHANGE.format(before=SAYS_EPOCH, after=SILENT))
    op.execute("UPDATE cardsync.endpoints SET disabled_because = 'operator' WHERE disabled_because = 'restored'")
    _let_be_known(more=False)
    op.execute(BEFORE)
