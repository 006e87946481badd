"""Erasing a person: what was asked for, which deletions it led to, and whether all of it is done.

Revision: 0003, after 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = r"""
CREATE TABLE cardsync.erasures (
    erasure_id uuid DEFAULT gen_random_uuid() CONSTRAINT erasures_pkey PRIMARY KEY,
    customer_id text NOT NULL CONSTRAINT erasures_customer_id_bounded CHECK (length(customer_id) BETWEEN 1 AND 64),
    status text NOT NULL DEFAULT 'pending'
        CONSTRAINT erasures_status_known CHECK (status IN ('pending', 'blocked', 'failed', 'done')),
    requested_by text NOT NULL CONSTRAINT erasures_requested_by_bounded CHECK (length(requested_by) BETWEEN 1 AND 100),
    reason text CONSTRAINT erasures_reason_bounded CHECK (length(reason) <= 200),
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Only a list asked for later than that says anything of whether the person is gone.
    asked_no bigint NOT NULL DEFAULT nextval('cardsync.observation_no'::regclass),
    due_at timestamptz DEFAULT clock_timestamp(),
    finished_at timestamptz,
    error text,
    CONSTRAINT erasures_done_says_when CHECK ((status = 'done') = (finished_at IS NOT NULL)),
    CONSTRAINT erasures_open_is_due CHECK ((status = 'done') = (due_at IS NULL)),
    CONSTRAINT erasures_trouble_has_a_name CHECK ((status IN ('blocked', 'failed')) = (error IS NOT NULL))
);
-- Asking twice for a person whose erasure is under way is one erasure.
CREATE UNIQUE INDEX erasures_one_is_open ON cardsync.erasures (customer_id) WHERE status <> 'done';
CREATE INDEX erasures_due ON cardsync.erasures (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE cardsync.erasure_requests (
    idempotency_key text CONSTRAINT erasure_requests_pkey PRIMARY KEY
        CONSTRAINT erasure_requests_key_bounded CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    request_hash bytea NOT NULL CONSTRAINT erasure_requests_hash_is_sha256 CHECK (octet_length(request_hash) = 32),
    erasure_id uuid NOT NULL CONSTRAINT erasure_requests_erasure_fkey REFERENCES cardsync.erasures (erasure_id),
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE cardsync.erasure_deletions (
    erasure_id uuid NOT NULL CONSTRAINT erasure_deletions_erasure_fkey REFERENCES cardsync.erasures (erasure_id),
    deletion_id uuid NOT NULL CONSTRAINT erasure_deletions_deletion_fkey REFERENCES cardsync.deletions (deletion_id),
    CONSTRAINT erasure_deletions_pkey PRIMARY KEY (erasure_id, deletion_id)
);
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute("DROP TABLE cardsync.erasure_deletions, cardsync.erasure_requests, cardsync.erasures")
