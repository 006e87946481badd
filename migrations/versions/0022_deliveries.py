"""Endpoints of the merchant's, the notifications that are kept to be passed on to them, and the deliveries.

Revision: 0022. Old code runs beside it: a web of the release before keeps no body, so that an endpoint gets what
arrives once all web processes are of this release.
"""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# An endpoint that is removed stays as a row, since deliveries name it; its name is free again.
#
# No foreign key leads from a delivery or a body to an endpoint: each notification would lock the endpoint's row, and its address
# and circuit breaker are written while notifications arrive. A body is base64 of a ciphertext, which does not compress; most are
# short enough to stand in the row itself, and a table beside it for each would cost three more writes.
TABLES = r"""
CREATE TABLE cardsync.endpoints (
    endpoint_id uuid CONSTRAINT endpoints_pkey PRIMARY KEY,
    name text NOT NULL CONSTRAINT endpoints_name_bounded CHECK (length(name) BETWEEN 1 AND 100),
    url text NOT NULL CONSTRAINT endpoints_url_bounded CHECK (length(url) BETWEEN 1 AND 2000),
    kind text NOT NULL CONSTRAINT endpoints_kind_known CHECK (kind IN ('notifications', 'changes')),
    status text NOT NULL DEFAULT 'enabled'
        CONSTRAINT endpoints_status_known CHECK (status IN ('enabled', 'disabled', 'removed')),
    disabled_because text
        CONSTRAINT endpoints_reason_known CHECK (disabled_because IN ('operator', 'gone', 'failing')),
    disabled_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    secret text NOT NULL CONSTRAINT endpoints_secret_bounded CHECK (length(secret) BETWEEN 1 AND 1000),
    previous_secret text CONSTRAINT endpoints_previous_secret_bounded CHECK (length(previous_secret) BETWEEN 1 AND 1000),
    previous_until timestamptz,
    failing text[] NOT NULL DEFAULT '{}',
    failing_since timestamptz,
    opened_at timestamptz,
    shut_until timestamptz,
    delivered_at timestamptz,
    last_error text CONSTRAINT endpoints_error_bounded CHECK (length(last_error) <= 200),
    cursor_seq bigint CONSTRAINT endpoints_cursor_counted CHECK (cursor_seq >= 0),
    batch_last bigint,
    attempts integer NOT NULL DEFAULT 0 CONSTRAINT endpoints_attempts_counted CHECK (attempts >= 0),
    ticket bigint NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_until timestamptz,
    CONSTRAINT endpoints_changes_have_a_cursor CHECK ((kind = 'changes') = (cursor_seq IS NOT NULL)),
    CONSTRAINT endpoints_batch_is_ahead CHECK (batch_last > cursor_seq),
    CONSTRAINT endpoints_disabled_says_why CHECK ((status = 'disabled') = (disabled_because IS NOT NULL)),
    CONSTRAINT endpoints_disabled_says_when CHECK ((status = 'disabled') = (disabled_at IS NOT NULL)),
    CONSTRAINT endpoints_previous_secret_ends CHECK ((previous_secret IS NULL) = (previous_until IS NULL))
);
CREATE UNIQUE INDEX endpoints_name ON cardsync.endpoints (name) WHERE status <> 'removed';

CREATE TABLE cardsync.kept_bodies (
    event_id uuid CONSTRAINT kept_bodies_pkey PRIMARY KEY,
    signature_hash bytea,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kept_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    customer_id text,
    session_id text,
    content_type text CONSTRAINT kept_bodies_type_bounded CHECK (length(content_type) <= 255),
    body text,
    CONSTRAINT kept_bodies_erased_names_nobody CHECK (body IS NOT NULL OR (customer_id IS NULL AND session_id IS NULL))
) WITH (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE cardsync.kept_bodies ALTER body SET STORAGE EXTERNAL;
CREATE INDEX kept_bodies_signature ON cardsync.kept_bodies (signature_hash, received_at);
CREATE INDEX kept_bodies_kept ON cardsync.kept_bodies (kept_since) WHERE body IS NOT NULL;
CREATE INDEX kept_bodies_erased ON cardsync.kept_bodies (kept_since) WHERE body IS NULL;
CREATE INDEX kept_bodies_customer ON cardsync.kept_bodies (customer_id) WHERE customer_id IS NOT NULL;
CREATE INDEX kept_bodies_session ON cardsync.kept_bodies (session_id) WHERE session_id IS NOT NULL;

CREATE TABLE cardsync.deliveries (
    delivery_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT deliveries_pkey PRIMARY KEY,
    endpoint_id uuid NOT NULL,
    event_id uuid NOT NULL,
    status text NOT NULL DEFAULT 'pending'
        CONSTRAINT deliveries_status_known CHECK (status IN ('pending', 'done', 'failed')),
    attempts integer NOT NULL DEFAULT 0 CONSTRAINT deliveries_attempts_counted CHECK (attempts >= 0),
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_until timestamptz,
    finished_at timestamptz,
    last_status integer,
    last_error text CONSTRAINT deliveries_error_bounded CHECK (length(last_error) <= 200),
    CONSTRAINT deliveries_once UNIQUE (event_id, endpoint_id),
    CONSTRAINT deliveries_ended_says_when CHECK ((status = 'pending') = (finished_at IS NULL)),
    CONSTRAINT deliveries_ended_is_free CHECK (status = 'pending' OR claimed_until IS NULL)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX deliveries_due ON cardsync.deliveries (endpoint_id, due_at) WHERE status = 'pending';
CREATE INDEX deliveries_waiting ON cardsync.deliveries (endpoint_id, made_at) WHERE status = 'pending';
CREATE INDEX deliveries_claimed ON cardsync.deliveries (endpoint_id) WHERE claimed_until IS NOT NULL;
CREATE INDEX deliveries_failed ON cardsync.deliveries (endpoint_id, delivery_id) WHERE status = 'failed';

"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("DROP TABLE cardsync.deliveries, cardsync.kept_bodies, cardsync.endpoints")
