"""The journal's chain gets seals, as the receipts' has them; and operators add, test, rotate and remove endpoints in the console.

A worker makes an endpoint's secret. The console, which has no secret key, gets it in ``operations.answer``: sealed for the session
that asked (``cardsync.ciphers``), so that neither the database nor another operator can read it.

The indexes are for two lists: without them a deployment with few ignored notifications reads its whole inbox for a page, and one
with many deliveries sorts all that are done.

Revision: 0032, after 0031. Old code runs beside it.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

SEALS = """
CREATE TABLE cardsync.operator_action_seals (
    action_no bigint CONSTRAINT operator_action_seals_pkey PRIMARY KEY,
    hash bytea NOT NULL CONSTRAINT operator_action_seals_hash_is_sha256 CHECK (octet_length(hash) = 32),
    sealed_at timestamptz NOT NULL,
    seal bytea NOT NULL CONSTRAINT operator_action_seals_seal_is_hmac_sha256 CHECK (octet_length(seal) = 32)
);
CREATE TRIGGER operator_action_seals_append_only BEFORE UPDATE OR DELETE ON cardsync.operator_action_seals
FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_change();
CREATE TRIGGER operator_action_seals_never_emptied BEFORE TRUNCATE ON cardsync.operator_action_seals
EXECUTE FUNCTION cardsync.refuse_change();
ALTER TABLE cardsync.operations ADD COLUMN IF NOT EXISTS answer text;
"""

_ROLE = """
CREATE OR REPLACE FUNCTION cardsync.operation_role(p_kind text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN p_kind IN ({operator}) THEN 'operator'
        WHEN p_kind IN ({admin}) THEN 'admin'
    END
$$;
CREATE OR REPLACE FUNCTION cardsync.operation_wants(p_kind text) RETURNS interval
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN p_kind IN ({fresh}) THEN interval '10 minutes' END
$$;
"""
_OPERATOR_BEFORE = (
    "'replay_event', 'replay_deletion', 'cancel_deletion', 'replay_events', 'replay_deletions', 'release_brake', "
    "'release_deletions', 'enable_endpoint', 'disable_endpoint'"
)
_FRESH_BEFORE = "'replay_events', 'replay_deletions', 'release_brake', 'release_deletions', 'erase'"
BEFORE = _ROLE.format(operator=_OPERATOR_BEFORE, admin="'erase'", fresh=_FRESH_BEFORE)
NOW = _ROLE.format(
    operator=f"{_OPERATOR_BEFORE}, 'test_endpoint', 'replay_delivery', 'replay_deliveries'",
    admin="'erase', 'add_endpoint', 'rotate_endpoint', 'remove_endpoint'",
    fresh=f"{_FRESH_BEFORE}, 'replay_deliveries', 'add_endpoint', 'rotate_endpoint', 'remove_endpoint'",
)


INDEXES = {
    "events_ignored": "events (received_at, event_id) WHERE status = 'ignored'",
    "deliveries_done": "deliveries (endpoint_id, made_at, event_id) WHERE status = 'done'",
}


def upgrade() -> None:
    op.execute(SEALS)
    op.execute(NOW)
    for name, on in INDEXES.items():
        db.make_index(op.get_context(), name, on)


def downgrade() -> None:
    op.execute(BEFORE)
    op.execute(
        """
        DROP INDEX cardsync.events_ignored, cardsync.deliveries_done;
        ALTER TABLE cardsync.operations DROP COLUMN answer;
        DROP TABLE cardsync.operator_action_seals;
        """
    )
