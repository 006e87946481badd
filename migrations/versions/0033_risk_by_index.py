"""``registry.agreements_at_risk`` is read by an index, in which no card is that serves no agreement.

Before, it began with all active cards that are expired or soon will be: of ten million cards more than a million, most of which
serve no agreement. Now each link says until when its card is good. A link may say too early a day, never too late a one: the
view looks at the card itself as well.

Revision: 0033, after 0032. Old code runs beside it: triggers write the day, also for old code that links a card or changes its expiry.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

# '-infinity': a link from before, which says nothing yet. A card that Ottu calls expired has the first day of all, so that
# it is never taken for such a link while those are filled in. Who links a card or changes its facts holds its customer.
COLUMN = r"""
ALTER TABLE cardsync.agreements ADD COLUMN IF NOT EXISTS card_good_until date NOT NULL DEFAULT '-infinity';

CREATE OR REPLACE FUNCTION cardsync.good_until(p_expires_on date, p_is_expired boolean) RETURNS date
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN p_is_expired THEN date '0001-01-01' ELSE coalesce(p_expires_on, 'infinity') END
$$;

CREATE OR REPLACE FUNCTION cardsync.note_linked_card() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT cardsync.good_until(c.expires_on, c.is_expired) INTO NEW.card_good_until
    FROM cardsync.cards AS c WHERE c.card_id = NEW.card_id;
    NEW.card_good_until := coalesce(NEW.card_good_until, '-infinity');  -- no such card: the foreign key says so
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER agreements_say_until_when BEFORE INSERT OR UPDATE OF card_id ON cardsync.agreements
FOR EACH ROW EXECUTE FUNCTION cardsync.note_linked_card();

-- Links are locked in the order in which lists lock them.
CREATE OR REPLACE FUNCTION cardsync.note_card_expiry() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM cardsync.agreements AS a WHERE a.card_id = NEW.card_id
    ORDER BY a.environment, a.agreement_id FOR NO KEY UPDATE;
    UPDATE cardsync.agreements AS a SET card_good_until = cardsync.good_until(NEW.expires_on, NEW.is_expired)
    WHERE a.card_id = NEW.card_id;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER cards_tell_agreements AFTER UPDATE OF expires_on, is_expired ON cardsync.cards
FOR EACH ROW WHEN (OLD.expires_on IS DISTINCT FROM NEW.expires_on OR OLD.is_expired IS DISTINCT FROM NEW.is_expired)
EXECUTE FUNCTION cardsync.note_card_expiry();

REVOKE ALL ON FUNCTION cardsync.good_until(date, boolean), cardsync.note_linked_card(), cardsync.note_card_expiry() FROM PUBLIC;
"""

# A part at a time, each a transaction of its own: traffic waits for a part at most, and no part takes longer than a statement may.
PARTS = 64
FILL = """
UPDATE cardsync.agreements AS a SET card_good_until = cardsync.good_until(c.expires_on, c.is_expired)
FROM cardsync.cards AS c
WHERE c.card_id = a.card_id AND a.card_good_until = '-infinity' AND hashtext(a.agreement_id) & {mask} = {part}
"""

TODAY = "(now() AT TIME ZONE (SELECT z.time_zone FROM cardsync.calendar AS z))::date"
_HEAD = r"""
CREATE OR REPLACE VIEW registry.agreements_at_risk WITH (security_barrier = true) AS
SELECT k.environment, k.agreement_id, NULL::uuid AS card_id, 'no_card' AS reason, k.without_card_since AS since
FROM cardsync.known_agreements AS k
WHERE k.without_card_since <= now() AND (k.expires_on IS NULL OR k.expires_on >= {today})
UNION ALL
SELECT a.environment, a.agreement_id, a.card_id, 'deleting', d.requested_at
FROM cardsync.deletions AS d
JOIN cardsync.cards AS c ON c.card_id = d.card_id AND c.status = 'deleting'
JOIN cardsync.agreements AS a ON a.card_id = c.card_id
JOIN cardsync.known_agreements AS k ON k.environment = a.environment AND k.agreement_id = a.agreement_id
WHERE d.phase IN ('asked', 'calling', 'proving', 'refused') AND (k.expires_on IS NULL OR k.expires_on >= {today})
UNION ALL
"""
# BETWEEN, although no link's day is before '-infinity': of a range whose end it does not know, PostgreSQL expects few rows, and
# of one bound a third of the table. Then it would read all cards.
VIEW = (
    _HEAD
    + r"""
SELECT a.environment, a.agreement_id, a.card_id,
    CASE WHEN c.is_expired OR c.expires_on < {today} THEN 'expired' ELSE 'expiring' END,
    CASE WHEN c.expires_on <= {today} + 30
         THEN (CASE WHEN c.expires_on < {today} THEN c.expires_on + 1 ELSE c.expires_on - 30 END)::timestamp
              AT TIME ZONE (SELECT z.time_zone FROM cardsync.calendar AS z)
         ELSE coalesce(c.confirmed_at, c.first_seen_at) END
FROM cardsync.agreements AS a
JOIN cardsync.cards AS c ON c.card_id = a.card_id
JOIN cardsync.known_agreements AS k ON k.environment = a.environment AND k.agreement_id = a.agreement_id
WHERE a.card_good_until BETWEEN '-infinity' AND {today} + 30
    AND c.status = 'active' AND (c.is_expired OR c.expires_on <= {today} + 30)
    AND (k.expires_on IS NULL OR k.expires_on >= {today})
"""
)
# As migration 0020 has it.
VIEW_BEFORE = (
    _HEAD
    + r"""
SELECT a.environment, a.agreement_id, a.card_id,
    CASE WHEN c.is_expired OR c.expires_on < {today} THEN 'expired' ELSE 'expiring' END,
    (CASE WHEN c.expires_on < {today} THEN c.expires_on + 1 ELSE c.expires_on - 30 END)::timestamp
        AT TIME ZONE (SELECT z.time_zone FROM cardsync.calendar AS z)
FROM cardsync.cards AS c
JOIN cardsync.agreements AS a ON a.card_id = c.card_id
JOIN cardsync.known_agreements AS k ON k.environment = a.environment AND k.agreement_id = a.agreement_id
WHERE c.status = 'active' AND c.expires_on <= {today} + 30 AND (k.expires_on IS NULL OR k.expires_on >= {today})
UNION ALL
SELECT a.environment, a.agreement_id, a.card_id, 'expired', coalesce(c.confirmed_at, c.first_seen_at)
FROM cardsync.cards AS c
JOIN cardsync.agreements AS a ON a.card_id = c.card_id
JOIN cardsync.known_agreements AS k ON k.environment = a.environment AND k.agreement_id = a.agreement_id
WHERE c.status = 'active' AND c.is_expired AND (c.expires_on IS NULL OR c.expires_on > {today} + 30)
    AND (k.expires_on IS NULL OR k.expires_on >= {today})
"""
)


def upgrade() -> None:
    op.execute(COLUMN)
    with op.get_context().autocommit_block():
        for part in range(PARTS):
            op.execute(FILL.format(mask=PARTS - 1, part=part))
    db.make_index(op.get_context(), "agreements_good_until", "agreements (card_good_until)")
    op.execute(VIEW.format(today=TODAY))


def downgrade() -> None:
    op.execute(VIEW_BEFORE.format(today=TODAY))
    op.execute(
        """
        DROP TRIGGER cards_tell_agreements ON cardsync.cards;
        DROP TRIGGER agreements_say_until_when ON cardsync.agreements;
        DROP FUNCTION cardsync.note_card_expiry(), cardsync.note_linked_card(), cardsync.good_until(date, boolean);
        DROP INDEX cardsync.agreements_good_until;
        ALTER TABLE cardsync.agreements DROP COLUMN card_good_until;
        """
    )
