"""Cards' calendar, agreements as Ottu has them, and which agreements are at risk.

Revision: 0020. Old code runs beside it: what it writes of links is known here too, by a trigger; it tells nothing of the calendar.
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# All of it can be run again: making an index commits what stands before. ``told_for`` is the expiry date that the calendar has
# told of, and ``told_days`` how far: 60, 30 or 7 days before, or 0 for expired. A card whose expiry date changes begins again by
# that alone, and no row of before is written here.
TABLES = r"""
CREATE TABLE IF NOT EXISTS cardsync.calendar (
    singleton boolean DEFAULT true CONSTRAINT calendar_pkey PRIMARY KEY CONSTRAINT calendar_is_one_row CHECK (singleton),
    time_zone text NOT NULL DEFAULT 'Asia/Kuwait'
);
INSERT INTO cardsync.calendar DEFAULT VALUES ON CONFLICT DO NOTHING;

ALTER TABLE cardsync.cards
    ADD COLUMN IF NOT EXISTS told_for date,
    ADD COLUMN IF NOT EXISTS told_days smallint;

CREATE TABLE IF NOT EXISTS cardsync.known_agreements (
    environment text NOT NULL
        CONSTRAINT known_agreements_environment_known CHECK (environment IN ('sandbox', 'production')),
    agreement_id text NOT NULL
        CONSTRAINT known_agreements_agreement_id_bounded CHECK (length(agreement_id) BETWEEN 1 AND 128),
    customer bigint NOT NULL
        CONSTRAINT known_agreements_customer_fkey REFERENCES cardsync.customers (id) ON DELETE CASCADE,
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    type text CONSTRAINT known_agreements_type_bounded CHECK (length(type) <= 32),
    frequency text CONSTRAINT known_agreements_frequency_bounded CHECK (length(frequency) <= 32),
    cycle_interval_days integer
        CONSTRAINT known_agreements_interval_bounded CHECK (cycle_interval_days BETWEEN 1 AND 3660),
    total_cycles integer CONSTRAINT known_agreements_cycles_bounded CHECK (total_cycles BETWEEN 1 AND 100000),
    starts_on date,
    expires_on date,
    heard_no bigint NOT NULL DEFAULT 0,
    charges timestamptz[] NOT NULL DEFAULT '{}' CONSTRAINT known_agreements_charges_bounded CHECK (cardinality(charges) <= 5),
    told_next_at timestamptz,
    expected_at timestamptz,
    cycle_months smallint,
    cycle_days smallint,
    without_card_since timestamptz,
    answered_no bigint,
    answered_at timestamptz,
    ticket_no bigint,
    asked_at timestamptz,
    lease_until timestamptz,
    due_at timestamptz,
    lane text CONSTRAINT known_agreements_lane_known CHECK (lane IN ('read', 'retry')),
    failures integer NOT NULL DEFAULT 0 CONSTRAINT known_agreements_failures_counted CHECK (failures >= 0),
    last_error text,
    CONSTRAINT known_agreements_pkey PRIMARY KEY (environment, agreement_id),
    CONSTRAINT known_agreements_due_has_a_lane CHECK ((due_at IS NULL) = (lane IS NULL)),
    CONSTRAINT known_agreements_ticket_is_whole CHECK (
        (ticket_no IS NULL) = (asked_at IS NULL) AND (ticket_no IS NULL) = (lease_until IS NULL)
    ),
    CONSTRAINT known_agreements_cycle_is_positive CHECK (coalesce(cycle_months, 0) + coalesce(cycle_days, 0) > 0
        OR (cycle_months IS NULL AND cycle_days IS NULL))
);
CREATE INDEX IF NOT EXISTS known_agreements_customer ON cardsync.known_agreements (customer);
CREATE INDEX IF NOT EXISTS known_agreements_without_card ON cardsync.known_agreements (environment, agreement_id)
    WHERE without_card_since IS NOT NULL;
CREATE INDEX IF NOT EXISTS known_agreements_due ON cardsync.known_agreements (due_at) WHERE due_at IS NOT NULL;
"""

# A link makes the agreement known; one that goes leaves it without a card. A transaction that moves a link does both.
KNOWN = r"""
CREATE OR REPLACE FUNCTION cardsync.note_agreement_link() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE cardsync.known_agreements AS k SET without_card_since = clock_timestamp()
        WHERE k.environment = OLD.environment AND k.agreement_id = OLD.agreement_id AND k.without_card_since IS NULL;
        RETURN NULL;
    END IF;
    INSERT INTO cardsync.known_agreements AS k (environment, agreement_id, customer)
    SELECT NEW.environment, NEW.agreement_id, c.customer FROM cardsync.cards AS c WHERE c.card_id = NEW.card_id
    ON CONFLICT (environment, agreement_id) DO UPDATE SET customer = excluded.customer, without_card_since = NULL
    WHERE k.customer <> excluded.customer OR k.without_card_since IS NOT NULL;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER agreements_are_known AFTER INSERT OR DELETE OR UPDATE OF card_id ON cardsync.agreements
FOR EACH ROW EXECUTE FUNCTION cardsync.note_agreement_link();
REVOKE ALL ON FUNCTION cardsync.note_agreement_link() FROM PUBLIC;

INSERT INTO cardsync.known_agreements (environment, agreement_id, customer)
SELECT a.environment, a.agreement_id, c.customer FROM cardsync.agreements AS a JOIN cardsync.cards AS c USING (card_id)
ON CONFLICT DO NOTHING;
"""

# What the calendar tells is a change of the card like any other: numbered at commit, in order. The function's text is changed in
# place and not written again: this holds whichever other migration replaced it before.
FEED = r"""
DO $do$
DECLARE
    before text := pg_get_functiondef('cardsync.record_card_change()'::regprocedure);
BEGIN
    IF strpos(before, $new${new}$new$) > 0 THEN
        RETURN;  -- run again after an interruption
    END IF;
    IF strpos(before, $old${old}$old$) = 0 THEN
        RAISE EXCEPTION 'record_card_change lacks: %', $old${old}$old$;
    END IF;
    EXECUTE replace(before, $old${old}$old$, $new${new}$new$);
END $do$;
"""
FEED_BEFORE = r"""
DO $do$
BEGIN
    EXECUTE replace(
        pg_get_functiondef('cardsync.record_card_change()'::regprocedure), $new${new}$new$, $old${old}$old$
    );
END $do$;
"""
BOOKKEEPING = ("'believed_no'", "'believed_no', 'told_for', 'told_days'")
CALENDAR = (
    "WHEN which <> '{}' THEN 'updated'",
    """WHEN which <> '{}' THEN 'updated'
            WHEN (NEW.told_for, NEW.told_days) IS NOT DISTINCT FROM (OLD.told_for, OLD.told_days) THEN NULL
            WHEN NEW.told_days = 0 THEN 'expired'
            WHEN NEW.told_days > 0 THEN 'expiring'""",
)
FIELDS = (
    """IF what = 'added' THEN""",
    """IF what = 'expiring' THEN
        which := ARRAY[NEW.told_days::text];
    END IF;
    IF what = 'added' THEN""",
)

CHANGES = "'added', 'updated', 'deleting', 'restored', 'removed', 'returned'"
CHANGE_KNOWN = """
ALTER TABLE cardsync.card_changes DROP CONSTRAINT card_changes_change_known;
ALTER TABLE cardsync.card_changes ADD CONSTRAINT card_changes_change_known CHECK (change IN ({changes})) NOT VALID
"""

# The day on which the calendar has something to say of a card next; ``store.calendar`` has the same words.
NEXT_DAY = """
(CASE WHEN told_for IS DISTINCT FROM expires_on THEN expires_on - 60
      WHEN told_days = 60 THEN expires_on - 30
      WHEN told_days = 30 THEN expires_on - 7
      WHEN told_days = 7 THEN expires_on + 1 END)
"""
INDEXES = {
    "cards_calendar": f"cards ({NEXT_DAY}) WHERE status = 'active' AND expires_on IS NOT NULL",
    "cards_expiry": "cards (expires_on, card_id) WHERE status = 'active'",
    "cards_said_expired": "cards (card_id) WHERE status = 'active' AND is_expired",
}

TODAY = "(now() AT TIME ZONE (SELECT z.time_zone FROM cardsync.calendar AS z))::date"
CARDS = r"""
CREATE OR REPLACE VIEW registry.cards AS
SELECT
    c.card_id,
    o.environment,
    o.customer_id,
    c.status,
    c.pg_code,
    c.pg_name,
    c.brand,
    c.number,
    c.last4,
    c.expiry_month,
    c.expiry_year,
    c.expires_on,
    coalesce(c.is_expired, false) OR coalesce(c.expires_on < {today}, false) AS is_expired,
    coalesce(c.is_preferred, false) AS is_preferred,
    c.cvv_required,
    coalesce(NOT c.cvv_required, false) AS auto_debit,
    c.agreements,
    c.name_on_card,
    c.first_seen_at,
    c.confirmed_at,
    c.removed_at,
    c.removed_because
FROM cardsync.cards AS c JOIN cardsync.customers AS o ON o.id = c.customer;
"""
# The barrier: as the other views that filter have it (migration 0014).
VIEWS = r"""
CREATE OR REPLACE VIEW registry.expiring_cards WITH (security_barrier = true) AS
SELECT a.*, a.expires_on - {today} AS expires_in_days
FROM registry.active_cards AS a WHERE a.expires_on <= {today} + 60;

CREATE OR REPLACE VIEW registry.agreements AS
SELECT
    k.environment,
    k.agreement_id,
    c.card_id,
    k.type,
    k.frequency,
    next.charge_at AS next_charge_at,
    k.expires_on,
    k.starts_on,
    k.cycle_interval_days,
    k.total_cycles
FROM cardsync.known_agreements AS k
LEFT JOIN cardsync.agreements AS a USING (environment, agreement_id)
LEFT JOIN cardsync.cards AS c ON c.card_id = a.card_id AND c.status = 'active'
LEFT JOIN LATERAL (
    SELECT min(moment AT TIME ZONE 'UTC') AS charge_at
    FROM generate_series(
        k.expected_at AT TIME ZONE 'UTC',
        greatest(k.expected_at, now() + make_interval(months => k.cycle_months, days => k.cycle_days)) AT TIME ZONE 'UTC',
        CASE WHEN k.cycle_months + k.cycle_days > 0 THEN make_interval(months => k.cycle_months, days => k.cycle_days)
             ELSE interval '1000 years' END
    ) AS moment
    WHERE moment AT TIME ZONE 'UTC' >= now() AND (k.expires_on IS NULL OR moment::date <= k.expires_on)
) AS next ON true;

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
    AND (k.expires_on IS NULL OR k.expires_on >= {today});

COMMENT ON VIEW registry.active_cards IS 'What may be charged: active, and its last day is not over in the merchant''s time zone.';
COMMENT ON VIEW registry.expiring_cards IS 'Active cards whose last valid day is within 60 days, in the merchant''s time zone.';
COMMENT ON COLUMN registry.expiring_cards.expires_in_days IS '0 on the last day on which the card is good.';
COMMENT ON VIEW registry.agreements IS
    'Every agreement known, with what notifications said of it: hints, not Ottu''s word. Use agreement_cards to find what to charge.';
COMMENT ON COLUMN registry.agreements.environment IS 'sandbox or production.';
COMMENT ON COLUMN registry.agreements.agreement_id IS 'The agreement''s identifier, exactly as Ottu has it.';
COMMENT ON COLUMN registry.agreements.card_id IS 'The active card that it is charged to; NULL if it has none.';
COMMENT ON COLUMN registry.agreements.type IS 'recurring, unscheduled, installment, or another word of Ottu''s.';
COMMENT ON COLUMN registry.agreements.frequency IS 'daily, weekly, monthly and so on, as Ottu said it.';
COMMENT ON COLUMN registry.agreements.next_charge_at IS 'When the next charge is expected; NULL if nothing tells.';
COMMENT ON COLUMN registry.agreements.expires_on IS 'The last day of the agreement; NULL if none was said.';
COMMENT ON COLUMN registry.agreements.starts_on IS 'The first day of the agreement; NULL if none was said.';
COMMENT ON COLUMN registry.agreements.cycle_interval_days IS 'Days between two charges, as Ottu said it.';
COMMENT ON COLUMN registry.agreements.total_cycles IS 'How many charges the agreement has in all, as Ottu said it.';
COMMENT ON VIEW registry.agreements_at_risk IS
    'Agreements whose next charge may fail: no active card, or one that is expired, expires within 30 days, or is being deleted. '
    'One whose own last day is over is not shown.';
COMMENT ON COLUMN registry.agreements_at_risk.environment IS 'sandbox or production.';
COMMENT ON COLUMN registry.agreements_at_risk.agreement_id IS 'The agreement''s identifier, exactly as Ottu has it.';
COMMENT ON COLUMN registry.agreements_at_risk.card_id IS 'The card that it is charged to; NULL with no_card.';
COMMENT ON COLUMN registry.agreements_at_risk.reason IS 'no_card, expired, expiring or deleting.';
COMMENT ON COLUMN registry.agreements_at_risk.since IS 'Since when it is at risk for this reason.';
"""


def _in_the_feed(old: str, new: str) -> None:
    op.execute(FEED.replace("{old}", old).replace("{new}", new))


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(KNOWN)
    op.execute(CHANGE_KNOWN.format(changes=f"{CHANGES}, 'expiring', 'expired'"))
    for old, new in (BOOKKEEPING, CALENDAR, FIELDS):
        _in_the_feed(old, new)
    op.execute(CARDS.format(today=TODAY))
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE cardsync.card_changes VALIDATE CONSTRAINT card_changes_change_known")
    for name, on in INDEXES.items():
        db.make_index(op.get_context(), name, on)
    op.execute(VIEWS.format(today=TODAY))


def downgrade() -> None:
    op.execute("DROP VIEW registry.expiring_cards, registry.agreements, registry.agreements_at_risk")
    for old, new in (FIELDS, CALENDAR, BOOKKEEPING):
        op.execute(FEED_BEFORE.replace("{new}", new).replace("{old}", old))
    op.execute("ALTER TABLE cardsync.card_changes DISABLE TRIGGER card_changes_append_only")
    op.execute("UPDATE cardsync.card_changes SET change = 'updated' WHERE change IN ('expiring', 'expired')")
    op.execute("ALTER TABLE cardsync.card_changes ENABLE TRIGGER card_changes_append_only")
    op.execute(CHANGE_KNOWN.format(changes=CHANGES))
    op.execute(CARDS.format(today="(now() AT TIME ZONE 'UTC')::date"))
    op.execute(
        """
        DROP TRIGGER agreements_are_known ON cardsync.agreements;
        DROP FUNCTION cardsync.note_agreement_link();
        DROP TABLE cardsync.known_agreements, cardsync.calendar;
        DROP INDEX cardsync.cards_calendar, cardsync.cards_expiry, cardsync.cards_said_expired;
        ALTER TABLE cardsync.cards DROP COLUMN told_for, DROP COLUMN told_days;
        """
    )
