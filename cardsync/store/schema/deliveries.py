"""The tables of endpoints and deliveries, as the migrations leave them. They stand beside those of ``store.schema.registry``."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import Identity, Index, Integer, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from cardsync.db import SCHEMA
from cardsync.store.schema.registry import NOW, Base

_PENDING = text("status = 'pending'")


class EndpointRow(Base):
    """An address of the merchant's, its secret, its circuit breaker, and for changes its cursor on the feed."""

    __tablename__ = "endpoints"
    __table_args__ = (
        Index("endpoints_name", "name", unique=True, postgresql_where=text("status <> 'removed'")),
        {"schema": SCHEMA},
    )

    endpoint_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    url: Mapped[str]
    kind: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=text("'enabled'"))
    disabled_because: Mapped[str | None]
    disabled_at: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    secret: Mapped[str]
    previous_secret: Mapped[str | None]
    previous_until: Mapped[dt.datetime | None]
    failing: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    failing_since: Mapped[dt.datetime | None]
    opened_at: Mapped[dt.datetime | None]
    shut_until: Mapped[dt.datetime | None]
    delivered_at: Mapped[dt.datetime | None]
    last_error: Mapped[str | None]
    cursor_seq: Mapped[int | None]
    batch_last: Mapped[int | None]
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    ticket: Mapped[int] = mapped_column(server_default=text("0"))
    due_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    claimed_until: Mapped[dt.datetime | None]


class KeptBodyRow(Base):
    """A notification that is passed on; its body is encrypted, and erased in time."""

    __tablename__ = "kept_bodies"
    __table_args__ = (
        Index("kept_bodies_signature", "signature_hash", "received_at"),
        Index("kept_bodies_kept", "kept_since", postgresql_where=text("body IS NOT NULL")),
        Index("kept_bodies_erased", "kept_since", postgresql_where=text("body IS NULL")),
        Index("kept_bodies_customer", "customer_id", postgresql_where=text("customer_id IS NOT NULL")),
        Index("kept_bodies_session", "session_id", postgresql_where=text("session_id IS NOT NULL")),
        {"schema": SCHEMA},
    )

    event_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    signature_hash: Mapped[bytes | None]
    received_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    kept_since: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    customer_id: Mapped[str | None]
    session_id: Mapped[str | None]
    content_type: Mapped[str | None]
    body: Mapped[str | None]


class DeliveryRow(Base):
    """One notification for one endpoint. While it is ``pending``, the row is the job."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "endpoint_id", name="deliveries_once"),
        Index("deliveries_due", "endpoint_id", "due_at", postgresql_where=_PENDING),
        Index("deliveries_waiting", "endpoint_id", "made_at", postgresql_where=_PENDING),
        Index("deliveries_claimed", "endpoint_id", postgresql_where=text("claimed_until IS NOT NULL")),
        Index("deliveries_done", "endpoint_id", "made_at", "event_id", postgresql_where=text("status = 'done'")),
        Index(
            "deliveries_failed_made",
            "endpoint_id",
            "made_at",
            "event_id",
            postgresql_where=text("status = 'failed'"),
        ),
        Index("deliveries_failed", "endpoint_id", "delivery_id", postgresql_where=text("status = 'failed'")),
        {"schema": SCHEMA},
    )

    delivery_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    endpoint_id: Mapped[uuid.UUID]
    event_id: Mapped[uuid.UUID]
    status: Mapped[str] = mapped_column(server_default=text("'pending'"))
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    made_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    due_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    claimed_until: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str | None]
    asked_until: Mapped[dt.datetime | None]
