"""``registry.agreements`` expects no charge after an agreement's last cycle, and ``registry.agreements_at_risk`` shows none whose
cycles are over: the rule of ``core.agreements``, which both views knew half of (``expires_on``).

A charge that billing told of is expected whatever the terms say, as there; so its agreement is at risk also after its last day.

Revision: 0040, after 0039. Old code runs beside it.
"""

from __future__ import annotations

from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

TODAY = "(now() AT TIME ZONE (SELECT z.time_zone FROM cardsync.calendar AS z))::date"

# Until when a charge may come by the number of cycles, in UTC; where one of the terms is not known, to the end of the calendar.
# Written out in each view: a function that a view calls runs with its reader's rights. The bounds are those of core: ten
# thousand years of days, since a term may name more than PostgreSQL has, and the last day that core counts to.
LAST = """(
    greatest(k.starts_on::timestamp, least(
        k.starts_on::timestamp + make_interval(
            months => k.cycle_months * k.total_cycles, days => least(k.cycle_days * k.total_cycles, 3660000)
        ),
        timestamp '9998-12-31'
    )) + interval '1 day'
)"""
GOES_ON = f"""(
    k.told_next_at > now()
    OR (k.expires_on IS NULL OR k.expires_on >= {TODAY}) AND now() AT TIME ZONE 'UTC' <= {LAST}
)"""
GOES_ON_BEFORE = f"(k.expires_on IS NULL OR k.expires_on >= {TODAY})"
EXPECTED = f"""(
    moment = k.told_next_at AT TIME ZONE 'UTC'
    OR (k.expires_on IS NULL OR moment::date <= k.expires_on) AND moment <= {LAST}
)"""
EXPECTED_BEFORE = "(k.expires_on IS NULL OR moment::date <= k.expires_on)"

# As migrations 0020, 0031 and 0033 have them, but for that.
VIEWS = r"""
CREATE OR REPLACE VIEW registry.agreements WITH (security_barrier = true) AS
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
    WHERE moment AT TIME ZONE 'UTC' >= now() AND {expected}
) AS next ON true;

CREATE OR REPLACE VIEW registry.agreements_at_risk WITH (security_barrier = true) AS
SELECT k.environment, k.agreement_id, NULL::uuid AS card_id, 'no_card' AS reason, k.without_card_since AS since
FROM cardsync.known_agreements AS k
WHERE k.without_card_since <= now() AND {goes_on}
UNION ALL
SELECT a.environment, a.agreement_id, a.card_id, 'deleting', d.requested_at
FROM cardsync.deletions AS d
JOIN cardsync.cards AS c ON c.card_id = d.card_id AND c.status = 'deleting'
JOIN cardsync.agreements AS a ON a.card_id = c.card_id
JOIN cardsync.known_agreements AS k ON k.environment = a.environment AND k.agreement_id = a.agreement_id
WHERE d.phase IN ('asked', 'calling', 'proving', 'refused') AND {goes_on}
UNION ALL
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
    AND {goes_on};

COMMENT ON COLUMN registry.agreements.next_charge_at IS '{next_charge_at}';
COMMENT ON VIEW registry.agreements_at_risk IS
    'Agreements whose next charge may fail: no active card, or one that is expired, expires within 30 days, or is being deleted. {not_shown}';
"""


def upgrade() -> None:
    op.execute(
        VIEWS.format(
            expected=EXPECTED,
            goes_on=GOES_ON,
            today=TODAY,
            next_charge_at="When the next charge is expected; NULL if nothing tells, or the agreement is over: its last day, or "
            "its last cycle.",
            not_shown="One that is over, by its own last day or by its last cycle, is not shown, unless billing told of a later charge.",
        )
    )


def downgrade() -> None:
    op.execute(
        VIEWS.format(
            expected=EXPECTED_BEFORE,
            goes_on=GOES_ON_BEFORE,
            today=TODAY,
            next_charge_at="When the next charge is expected; NULL if nothing tells.",
            not_shown="One whose own last day is over is not shown.",
        )
    )
