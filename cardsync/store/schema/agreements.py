"""The tables of agreements, of questions about gateways, and of the merchant's calendar, as the migrations leave them.

They stand beside those of ``store.schema.registry``.
"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ForeignKey, Index, Integer, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from cardsync.db import SCHEMA
from cardsync.store.schema.registry import NOW, Base


class CalendarRow(Base):
    """One row: the time zone by which a card's last day ends."""

    __tablename__ = "calendar"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    time_zone: Mapped[str] = mapped_column(server_default=text("'Asia/Kuwait'::text"))


class KnownAgreementRow(Base):
    """An agreement that a card's link or a notification made known, with or without a card."""

    __tablename__ = "known_agreements"
    __table_args__ = (
        Index("known_agreements_customer", "customer"),
        Index(
            "known_agreements_without_card",
            "environment",
            "agreement_id",
            postgresql_where=text("without_card_since IS NOT NULL"),
        ),
        Index("known_agreements_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        {"schema": SCHEMA},
    )

    environment: Mapped[str] = mapped_column(primary_key=True)
    agreement_id: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[int] = mapped_column(
        ForeignKey(f"{SCHEMA}.customers.id", name="known_agreements_customer_fkey", ondelete="CASCADE")
    )
    first_seen_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    type: Mapped[str | None]
    frequency: Mapped[str | None]
    cycle_interval_days: Mapped[int | None] = mapped_column(Integer)
    total_cycles: Mapped[int | None] = mapped_column(Integer)
    starts_on: Mapped[dt.date | None]
    expires_on: Mapped[dt.date | None]
    heard_no: Mapped[int] = mapped_column(server_default=text("0"))
    charges: Mapped[list[dt.datetime]] = mapped_column(server_default=text("'{}'::timestamp with time zone[]"))
    told_next_at: Mapped[dt.datetime | None]
    expected_at: Mapped[dt.datetime | None]
    cycle_months: Mapped[int | None] = mapped_column(SmallInteger)
    cycle_days: Mapped[int | None] = mapped_column(SmallInteger)
    without_card_since: Mapped[dt.datetime | None]
    answered_no: Mapped[int | None]
    answered_at: Mapped[dt.datetime | None]
    ticket_no: Mapped[int | None]
    asked_at: Mapped[dt.datetime | None]
    lease_until: Mapped[dt.datetime | None]
    due_at: Mapped[dt.datetime | None]
    lane: Mapped[str | None]
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_error: Mapped[str | None]


class GatewayAskRow(Base):
    """A payment gateway of a customer that a reader asked about: its question to Ottu, and as of when its cards are known."""

    __tablename__ = "gateway_asks"
    __table_args__ = (
        Index("gateway_asks_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        Index("gateway_asks_wanted", "wanted_at"),
        {"schema": SCHEMA},
    )

    customer: Mapped[int] = mapped_column(
        ForeignKey(f"{SCHEMA}.customers.id", name="gateway_asks_customer_fkey", ondelete="CASCADE"), primary_key=True
    )
    pg_code: Mapped[str] = mapped_column(primary_key=True)
    wanted_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    due_at: Mapped[dt.datetime | None]
    not_before: Mapped[dt.datetime | None]
    ticket_no: Mapped[int | None]
    asked_at: Mapped[dt.datetime | None]
    lease_until: Mapped[dt.datetime | None]
    answered_no: Mapped[int | None]
    answered_at: Mapped[dt.datetime | None]
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_error: Mapped[str | None]
