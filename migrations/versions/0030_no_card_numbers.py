"""What a service says of itself in SQL may hold no full card number, however its digits are parted.

``core.card_numbers`` says what looks like one. A request in SQL never passes through it, and the check that was here knew only some
separators: ``4111,1111,1111,1111`` passed, and is shown to every reader. A test holds both to the same texts.

A trigger on INSERT and not a constraint: a row from before, which may hold such a text, must go on to its proof.

Revision: 0030, after 0029. Old code runs beside it.
"""

from __future__ import annotations

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

# As there: eleven digits, of any script that a keyboard here writes, with no letter, digit or sign of a mask in between.
FUNCTIONS = r"""
CREATE FUNCTION cardsync.shows_card_number(said text) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT regexp_replace(
        translate(
            normalize(said, NFKC), '٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹०१२३४५६७८९', '012345678901234567890123456789'
        ),
        '[^[:alnum:]*#•●]+', '', 'g'
    ) ~ '[0-9]{11}'
$$;

CREATE FUNCTION cardsync.refuse_card_number() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF cardsync.shows_card_number(NEW.requested_by) OR cardsync.shows_card_number(NEW.reason) THEN
        RAISE EXCEPTION 'requested_by or reason looks like a full card number' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN NEW;
END
$$;

REVOKE ALL ON FUNCTION cardsync.shows_card_number(text), cardsync.refuse_card_number() FROM PUBLIC;

CREATE TRIGGER deletions_show_no_card_number BEFORE INSERT ON cardsync.deletions
    FOR EACH ROW EXECUTE FUNCTION cardsync.refuse_card_number();
"""


def upgrade() -> None:
    op.execute(FUNCTIONS)


def downgrade() -> None:
    op.execute("DROP TRIGGER deletions_show_no_card_number ON cardsync.deletions")
    op.execute("DROP FUNCTION cardsync.refuse_card_number()")
    op.execute("DROP FUNCTION cardsync.shows_card_number(text)")
