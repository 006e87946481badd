"""The tables behind the registry, as SQLAlchemy models; ``alembic check`` holds them equal to what the migrations make.

Two readers use these models: Alembic, to compare them with a database, and the test factories, to make rows. The statements of
``store/`` are written as SQL, and none is built from a model. Check constraints and triggers stand in the migrations alone, with
their reasons.

One sequence, ``observation_no``, numbers all evidence about a customer's cards in the order in which it was *asked for or
received*: hints, lists, deletes. "Asked for after the last evidence" is then a comparison of two integers, and depends on no
clock.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import REAL, BigInteger, Date, ForeignKey, Identity, Index, Integer, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, TIMESTAMP, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cardsync.db import SCHEMA

NOW = text("clock_timestamp()")
# Written as PostgreSQL prints it, so that Alembic finds the index equal; ``store.calendar`` says what it means.
NEXT_DAY = """(
CASE
    WHEN told_for IS DISTINCT FROM expires_on THEN expires_on - 60
    WHEN told_days = 60 THEN expires_on - 30
    WHEN told_days = 30 THEN expires_on - 7
    WHEN told_days = 7 THEN expires_on + 1
    ELSE NULL::date
END)"""
NEXT_NO = text(f"nextval('{SCHEMA}.observation_no'::regclass)")


class Base(DeclarativeBase):
    """The metadata of the schema ``cardsync``."""

    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy's own protocol)
        str: Text,
        bytes: BYTEA,
        int: BigInteger,
        dt.datetime: TIMESTAMP(timezone=True),
        dt.date: Date,
        list[str]: ARRAY(Text),
        list[int]: ARRAY(BigInteger),
        list[uuid.UUID]: ARRAY(UUID),
        list[dt.datetime]: ARRAY(TIMESTAMP(timezone=True)),
        dict[str, Any]: JSONB,
    }
    __table_args__: Any = {"schema": SCHEMA}  # noqa: RUF012


class EventRow(Base):
    """The inbox: one row for each authentic notification. While it is ``pending``, the row is the job."""

    __tablename__ = "events"
    __table_args__ = (
        Index("events_body_hash_key", "body_hash", unique=True),
        Index("events_pending", "due_at", postgresql_where=text("status = 'pending'")),
        Index("events_fresh", "due_at", postgresql_where=text("status = 'pending' AND NOT repeated")),
        Index("events_repeats_pending", "due_at", postgresql_where=text("status = 'pending' AND repeated")),
        Index("events_repeats", "signature_hash", "environment", "customer_id", postgresql_where=text("repeated")),
        Index("events_failed", "received_at", postgresql_where=text("status = 'failed'")),
        Index(
            "events_failed_alike",
            "environment",
            "last_error",
            "received_at",
            "event_id",
            postgresql_where=text("status = 'failed'"),
            postgresql_include=["due_at", "customer_id"],
        ),
        Index("events_customer", "environment", "customer_id", "evidence_no"),
        Index("events_received_at", "received_at"),
        Index("events_ignored", "received_at", "event_id", postgresql_where=text("status = 'ignored'")),
        Index(
            "events_unshed",
            "received_at",
            postgresql_where=text("shed_at IS NULL AND status IN ('done', 'ignored')"),
        ),
        Index(
            "events_signature",
            "signature_hash",
            "evidence_no",
            postgresql_where=text("signature_hash IS NOT NULL"),
        ),
        Index("events_session", "session_id", "evidence_no", postgresql_where=text("session_id IS NOT NULL")),
        Index(
            "events_reference", "reference_number", "evidence_no", postgresql_where=text("reference_number IS NOT NULL")
        ),
        Index("events_order", "order_no", "evidence_no", postgresql_where=text("order_no IS NOT NULL")),
        {"schema": SCHEMA},
    )

    event_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    evidence_no: Mapped[int] = mapped_column(server_default=NEXT_NO)
    body_hash: Mapped[bytes]
    received_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    status: Mapped[str]
    kind: Mapped[str]
    ignored_because: Mapped[str | None]
    environment: Mapped[str | None]
    customer_id: Mapped[str | None]
    session_id: Mapped[str | None]
    reference_number: Mapped[str | None]
    order_no: Mapped[str | None]
    result: Mapped[str | None]
    state: Mapped[str | None]
    payment_type: Mapped[str | None]
    agreement_id: Mapped[str | None]
    scheme: Mapped[str]
    key_id: Mapped[str]
    signature_hash: Mapped[bytes | None]
    repeated: Mapped[bool] = mapped_column(server_default=text("false"))
    token: Mapped[str | None]
    facts: Mapped[dict[str, Any] | None]
    card_id: Mapped[uuid.UUID | None]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    due_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    settled_at: Mapped[dt.datetime | None]
    last_error: Mapped[str | None]
    shed_at: Mapped[dt.datetime | None]
    vouched: Mapped[bool] = mapped_column(server_default=text("false"))
    as_of: Mapped[dt.datetime | None]


class SignatureRow(Base):
    """A signature that vouched for a body: kept far longer than the body's row, since it is good for ever.

    ``payment`` is a hash of what the first body was about; ``named_card`` tells whether a fresh body with a card has come.
    """

    __tablename__ = "signatures"
    __table_args__ = (Index("signatures_first_seen", "first_seen"), {"schema": SCHEMA})

    signature_hash: Mapped[bytes] = mapped_column(primary_key=True)
    first_seen: Mapped[dt.date]
    payment: Mapped[bytes | None]
    named_card: Mapped[bool]


class RepeatedSignatureRow(Base):
    """A signature that came in several bodies, and how many unknown customers it has made known lately."""

    __tablename__ = "repeated_signatures"
    __table_args__ = (Index("repeated_signatures_counted_since", "counted_since"), {"schema": SCHEMA})

    signature_hash: Mapped[bytes] = mapped_column(primary_key=True)
    counted_since: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    strangers: Mapped[int] = mapped_column(Integer)


class CustomerRow(Base):
    """One customer in one environment, and the level-triggered fact "may differ from Ottu since ..."."""

    __tablename__ = "customers"
    __table_args__ = (
        Index("customers_identity", "environment", "customer_id", unique=True),
        Index("customers_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("customers_by_lane", "lane", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        # Three that code of the release before reads by; the release after drops them.
        Index("customers_stalest", text("reconciled_at NULLS FIRST"), "id", postgresql_where=text("due_at IS NULL")),
        Index(
            "customers_cadence",
            "cadence",
            "reconciled_at",
            "id",
            postgresql_where=text("due_at IS NULL AND reconciled_at IS NOT NULL"),
        ),
        Index("customers_look_by", "look_by", postgresql_where=text("due_at IS NULL AND look_by IS NOT NULL")),
        Index(
            "customers_line",
            text("reconciled_at NULLS FIRST"),
            "id",
            postgresql_where=text("due_at IS NULL OR lane = 'repeat'"),
        ),
        Index(
            "customers_line_by_cadence",
            "cadence",
            "reconciled_at",
            "id",
            postgresql_where=text("(due_at IS NULL OR lane = 'repeat') AND reconciled_at IS NOT NULL"),
        ),
        Index(
            "customers_line_by_date",
            "look_by",
            postgresql_where=text("(due_at IS NULL OR lane = 'repeat') AND look_by IS NOT NULL"),
        ),
        Index("customers_held", "id", postgresql_where=text("removals_held")),
        Index("customers_hinted", "hinted_at", postgresql_where=text("hinted_at IS NOT NULL")),
        Index("customers_odd", "id", postgresql_where=text("list_oddities <> '{}'::text[]")),
        Index("customers_probation", "probation_since", postgresql_where=text("probation_since IS NOT NULL")),
        {"schema": SCHEMA},
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    environment: Mapped[str]
    customer_id: Mapped[str]
    first_seen_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    dirty_no: Mapped[int] = mapped_column(server_default=text("0"))
    repeat_no: Mapped[int] = mapped_column(server_default=text("0"))
    dirty_since: Mapped[dt.datetime | None]
    due_at: Mapped[dt.datetime | None]
    lane: Mapped[str | None]
    rung_at: Mapped[dt.datetime | None]
    ticket_no: Mapped[int | None]
    asked_at: Mapped[dt.datetime | None]
    lease_until: Mapped[dt.datetime | None]
    applied_no: Mapped[int] = mapped_column(server_default=text("0"))
    reconciled_at: Mapped[dt.datetime | None]
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_error: Mapped[str | None]
    removals_held: Mapped[bool] = mapped_column(server_default=text("false"))
    list_oddities: Mapped[list[str]] = mapped_column(server_default=text("'{}'::text[]"))
    cadence: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    silent_changes: Mapped[float] = mapped_column(REAL, server_default=text("0"))
    watched_days: Mapped[float] = mapped_column(REAL, server_default=text("0"))
    look_by: Mapped[dt.datetime | None]
    hinted_at: Mapped[dt.datetime | None]  # the newest hint, where hints alone made the customer known
    probation_since: Mapped[dt.datetime | None]


class CardRow(Base):
    """A card in all its lives. ``token`` is erased when it is removed; the keyed fingerprint recognises it again."""

    __tablename__ = "cards"
    __table_args__ = (
        Index("cards_identity", "customer", "fingerprint", unique=True),
        Index("cards_fingerprint", "fingerprint"),
        Index(
            "cards_token_forms",
            text("left(substr(token, 4, 16), greatest(length(token) - 50, 0))"),
            postgresql_where=text("token IS NOT NULL"),
        ),
        Index("cards_calendar", text(NEXT_DAY), postgresql_where=text("status = 'active' AND expires_on IS NOT NULL")),
        Index("cards_expiry", "expires_on", "card_id", postgresql_where=text("status = 'active'")),
        Index("cards_said_expired", "card_id", postgresql_where=text("status = 'active' AND is_expired")),
        {"schema": SCHEMA},
    )

    card_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    customer: Mapped[int] = mapped_column(ForeignKey(f"{SCHEMA}.customers.id", name="cards_customer_fkey"))
    fingerprint: Mapped[bytes]
    token: Mapped[str | None]
    status: Mapped[str]
    life: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    pg_code: Mapped[str | None]
    pg_name: Mapped[str | None]
    brand: Mapped[str | None]
    number: Mapped[str | None]
    last4: Mapped[str | None]
    expiry_month: Mapped[str | None]
    expiry_year: Mapped[str | None]
    expires_on: Mapped[dt.date | None]
    is_expired: Mapped[bool | None]
    is_preferred: Mapped[bool | None]
    cvv_required: Mapped[bool | None]
    agreements: Mapped[list[str]] = mapped_column(server_default=text("'{}'::text[]"))
    name_on_card: Mapped[str | None]
    first_seen_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    confirmed_at: Mapped[dt.datetime | None]
    removed_at: Mapped[dt.datetime | None]
    removed_because: Mapped[str | None]
    awaited_no: Mapped[int | None]
    awaited_at: Mapped[dt.datetime | None]
    hint_applied_no: Mapped[int] = mapped_column("believed_no", server_default=text("0"))
    cause: Mapped[str]
    hint_applied_at: Mapped[dt.datetime | None]
    told_for: Mapped[dt.date | None]
    told_days: Mapped[int | None] = mapped_column(SmallInteger)


class AgreementRow(Base):
    """Which card an agreement is charged to: one at a time (Ottu's documentation), here by primary key."""

    __tablename__ = "agreements"
    __table_args__ = (
        Index("agreements_card", "card_id"),
        Index("agreements_good_until", "card_good_until"),
        {"schema": SCHEMA},
    )

    environment: Mapped[str] = mapped_column(primary_key=True)
    agreement_id: Mapped[str] = mapped_column(primary_key=True)
    card_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.cards.card_id", name="agreements_card_fkey", ondelete="CASCADE")
    )
    since_no: Mapped[int]
    since_at: Mapped[dt.datetime | None]
    card_good_until: Mapped[dt.date] = mapped_column(server_default=text("'-infinity'::date"))  # written by triggers


class InquiryRow(Base):
    """A payment that Ottu is to be asked about, by its session: what hints and operators want to know, each asked for once."""

    __tablename__ = "inquiries"
    __table_args__ = (
        Index("inquiries_session_key", "session_id", unique=True),
        Index("inquiries_due", "due_at", postgresql_where=text("status = 'waiting'")),
        Index("inquiries_asked", "last_asked_at", postgresql_where=text("last_asked_at IS NOT NULL")),
        Index("inquiries_signature", "signature_hash", postgresql_where=text("signature_hash IS NOT NULL")),
        Index("inquiries_made_at", "made_at"),
        {"schema": SCHEMA},
    )

    inquiry_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    session_id: Mapped[str]
    asked_for: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=text("'waiting'::text"))
    made_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    heard_at: Mapped[dt.datetime | None]
    signed_at: Mapped[dt.datetime | None]
    signature_hash: Mapped[bytes | None]
    card_ids: Mapped[list[uuid.UUID]] = mapped_column(server_default=text("'{}'::uuid[]"))
    due_at: Mapped[dt.datetime | None]
    lease_until: Mapped[dt.datetime | None]
    ticket_no: Mapped[int | None]
    asked_at: Mapped[list[dt.datetime]] = mapped_column(server_default=text("'{}'::timestamptz[]"))
    last_asked_at: Mapped[dt.datetime | None]
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_error: Mapped[str | None]


class CardChangeRow(Base):
    """The feed of changes. Only a deferred trigger on ``cards`` writes it: at commit, in commit order, without gaps."""

    __tablename__ = "card_changes"
    __table_args__ = (
        Index("card_changes_card", "card_id", "seq"),
        Index("card_changes_customer", "customer"),
        {"schema": SCHEMA},
    )

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    card_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(f"{SCHEMA}.cards.card_id", name="card_changes_card_fkey"))
    customer: Mapped[int] = mapped_column(ForeignKey(f"{SCHEMA}.customers.id", name="card_changes_customer_fkey"))
    change: Mapped[str]
    fields: Mapped[list[str]]
    cause: Mapped[str]


class FeedHeadRow(Base):
    """The feed's last number: one row, locked only while a transaction commits."""

    __tablename__ = "feed_head"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    seq: Mapped[int] = mapped_column(server_default=text("0"))


class FeedEpochRow(Base):
    """An epoch of the feed: from which number on it counts. A restored backup begins another one; no row is ever changed."""

    __tablename__ = "feed_epochs"

    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    began_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    restored_to: Mapped[dt.datetime | None]
    before_seq: Mapped[int]
    after_seq: Mapped[int]


class AskingTransactionRow(Base):
    """A transaction of somebody else's that asked for a deletion by SQL: what it changes is numbered after its commit."""

    __tablename__ = "asking_transactions"

    xid: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class UnnumberedChangeRow(Base):
    """A change of the feed that waits for its number; nearly always there is none."""

    __tablename__ = "unnumbered_changes"

    change_no: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    card_id: Mapped[uuid.UUID]
    customer: Mapped[int]
    change: Mapped[str]
    fields: Mapped[list[str]]
    cause: Mapped[str]


class ObservationRow(Base):
    """One list that Ottu was asked for, and its outcome."""

    __tablename__ = "observations"
    __table_args__ = (
        Index("observations_customer", "customer", "observation_no"),
        Index("observations_asked_at", "asked_at"),
        Index("observations_removed_none", "asked_at", postgresql_where=text("removed = 0")),
        {"schema": SCHEMA},
    )

    observation_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    customer: Mapped[int] = mapped_column(ForeignKey(f"{SCHEMA}.customers.id", name="observations_customer_fkey"))
    lane: Mapped[str]
    asked_at: Mapped[dt.datetime]
    finished_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    outcome: Mapped[str]
    calls: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    listed: Mapped[int | None] = mapped_column(Integer)
    changed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    removed: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    suspicious: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class CallMinuteRow(Base):
    """Calls to Ottu, counted before each is made: a row for each minute and lane."""

    __tablename__ = "call_minutes"

    minute: Mapped[dt.datetime] = mapped_column(primary_key=True)
    lane: Mapped[str] = mapped_column(primary_key=True)
    calls: Mapped[int] = mapped_column(Integer)


class GateRow(Base):
    """One row of shared state: the gate before Ottu, the brake on removals, the sweeps, the secret's check."""

    __tablename__ = "gate"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    paused_until: Mapped[dt.datetime | None]
    paused_because: Mapped[str | None]
    swept_at: Mapped[dt.datetime | None]
    pass_started_at: Mapped[dt.datetime | None]
    pass_cards: Mapped[int] = mapped_column(server_default=text("0"))
    pass_removed: Mapped[int] = mapped_column(server_default=text("0"))
    brake_engaged_at: Mapped[dt.datetime | None]
    secret_check: Mapped[bytes | None]
    pace_per_second: Mapped[float | None]
    pace_since: Mapped[dt.datetime | None]
    pace_next_at: Mapped[dt.datetime | None]
    breaker_reason: Mapped[str | None]
    breaker_opened_at: Mapped[dt.datetime | None]
    breaker_shut_until: Mapped[dt.datetime | None]
    breaker_probing: Mapped[int | None]
    breaker_failing: Mapped[list[int]] = mapped_column(server_default=text("'{}'::bigint[]"))
    breaker_odd: Mapped[list[int]] = mapped_column(server_default=text("'{}'::bigint[]"))
    breaker_failed_at: Mapped[dt.datetime | None]
    inquiries_paused_until: Mapped[dt.datetime | None]
    operator_paused_at: Mapped[dt.datetime | None]
    operator_paused_by: Mapped[str | None]
    operator_paused_why: Mapped[str | None]


class ScheduleRow(Base):
    """One row: how many turns of routine looks were taken."""

    __tablename__ = "schedule"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    dealt: Mapped[int] = mapped_column(server_default=text("0"))


class ApiKeyRow(Base):
    """An internal service's key: only its SHA-256 is kept (the key has 256 random bits, so a slow hash would add nothing)."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("api_keys_hash_key", "key_hash", unique=True), {"schema": SCHEMA})

    key_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    name: Mapped[str]
    key_hash: Mapped[bytes]
    scopes: Mapped[list[str]]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    revoked_at: Mapped[dt.datetime | None]
    owner: Mapped[str | None]
    prefix: Mapped[str | None]
    expires_at: Mapped[dt.datetime | None]
    replaced_at: Mapped[dt.datetime | None]
    calls_per_day: Mapped[int | None] = mapped_column(Integer)
    requests_per_second: Mapped[int | None] = mapped_column(Integer)
    held_at: Mapped[dt.datetime | None]


class KeyUseRow(Base):
    """When a key was last used, how far its permits for requests are taken, and the calls to Ottu that it caused on a day."""

    __tablename__ = "key_use"

    key_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.api_keys.key_id", name="key_use_key_fkey"), primary_key=True
    )
    last_used_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    taken_until: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    day: Mapped[dt.date]
    calls: Mapped[int] = mapped_column(Integer, server_default=text("0"))
