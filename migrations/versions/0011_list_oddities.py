"""Odd lists: what was odd about the list last believed of a customer (``core.oddities``), for operators and for erasures.

Revision: 0011, after 0010. Old code runs beside it: it leaves the new column as it is, and believes no odd list.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# The words are not checked against a list: a newer version knows more of them. NOT VALID first, as in 0010.
COLUMN = r"""
ALTER TABLE cardsync.customers ADD COLUMN IF NOT EXISTS list_oddities text[] NOT NULL DEFAULT '{}';
ALTER TABLE cardsync.customers DROP CONSTRAINT IF EXISTS customers_list_oddities_bounded;
ALTER TABLE cardsync.customers ADD CONSTRAINT customers_list_oddities_bounded
    CHECK (cardinality(list_oddities) <= 50) NOT VALID;
"""
VALIDATE = "ALTER TABLE cardsync.customers VALIDATE CONSTRAINT customers_list_oddities_bounded"


def upgrade() -> None:
    op.execute(COLUMN)
    with op.get_context().autocommit_block():
        op.execute(VALIDATE)
    db.make_index(op.get_context(), "customers_odd", "customers (id) WHERE list_oddities <> '{}'::text[]")


def downgrade() -> None:
    op.execute(
        """
        DROP INDEX cardsync.customers_odd;
        ALTER TABLE cardsync.customers DROP COLUMN list_oddities;
        """
    )
