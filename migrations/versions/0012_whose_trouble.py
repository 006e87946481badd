"""Whose trouble it is: customers with odd lists in a row, which answer said that a card is gone, why an erasure waits.

Revision: 0012. Old code runs beside it: it leaves the new columns as they are.

Ottu's own words in a refusal may name a person. They are taken out of ``deletions`` and ``erasures``. In ``deletion_steps`` those of
earlier versions stay: receipts are append-only and one chain of hashes, so that a step cannot lose its text without breaking every
head that was noted elsewhere, and a migration that rewrites receipts would show that receipts can be rewritten.
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Nullable, or with a constant default: nothing is rewritten. An erasure that waits may say why; NOT VALID first, as ever.
COLUMNS = r"""
ALTER TABLE cardsync.gate ADD COLUMN IF NOT EXISTS breaker_odd bigint[] NOT NULL DEFAULT '{}';
ALTER TABLE cardsync.deletions ADD COLUMN IF NOT EXISTS said_status integer;
ALTER TABLE cardsync.erasures DROP CONSTRAINT erasures_trouble_has_a_name;
ALTER TABLE cardsync.erasures ADD CONSTRAINT erasures_trouble_has_a_name
    CHECK (error IS NOT NULL OR status NOT IN ('blocked', 'failed')) NOT VALID;
"""
VALIDATE = "ALTER TABLE cardsync.erasures VALIDATE CONSTRAINT erasures_trouble_has_a_name"
# The status stays. What an erasure says of an open deletion is written again at its next look, which is due within a minute.
SCRUB = (
    r"""
    UPDATE cardsync.deletions SET error = substring(error FROM '^Ottu refuses \(\d+\)')
    WHERE error ~ '^Ottu refuses \(\d+\): '
    """,
    r"UPDATE cardsync.erasures SET error = 'see its deletions' WHERE error ~ 'Ottu refuses \(\d+\): '",
)


def upgrade() -> None:
    op.execute(COLUMNS)
    for statement in SCRUB:
        op.execute(statement)
    with op.get_context().autocommit_block():
        op.execute(VALIDATE)


def downgrade() -> None:
    op.execute("""
        UPDATE cardsync.erasures SET error = NULL WHERE status = 'pending';
        ALTER TABLE cardsync.erasures DROP CONSTRAINT erasures_trouble_has_a_name;
        ALTER TABLE cardsync.erasures ADD CONSTRAINT erasures_trouble_has_a_name
            CHECK ((status IN ('blocked', 'failed')) = (error IS NOT NULL));
    """)
    op.execute("ALTER TABLE cardsync.gate DROP COLUMN breaker_odd")
    op.execute("ALTER TABLE cardsync.deletions DROP COLUMN said_status")
