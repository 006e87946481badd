"""The tables of erasures, as the migrations leave them (beside those of ``store.schema.registry``)."""

from __future__ import annotations

import datetime as dt
import uuid

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from cardsync.db import SCHEMA
from cardsync.store.schema.deletions import DeletionRow
from cardsync.store.schema.registry import NEXT_NO, NOW, Base


class ErasureRow(Base):
    """A person to be erased: all cards of one customer id, in both environments."""

    __tablename__ = "erasures"
    __table_args__ = (
        Index("erasures_one_is_open", "customer_id", unique=True, postgresql_where=text("status <> 'done'")),
        Index("erasures_customer", "customer_id"),
        Index("erasures_requested_at", "requested_at", "erasure_id"),
        Index("erasures_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        {"schema": SCHEMA},
    )

    erasure_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    customer_id: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=text("'pending'"))
    requested_by: Mapped[str]
    reason: Mapped[str | None]
    requested_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    asked_no: Mapped[int] = mapped_column(server_default=NEXT_NO)
    due_at: Mapped[dt.datetime | None] = mapped_column(server_default=NOW)
    finished_at: Mapped[dt.datetime | None]
    error: Mapped[str | None]
    asker: Mapped[str | None]


class ErasureRequestRow(Base):
    """A request that came with an idempotency key, and the erasure that it got."""

    __tablename__ = "erasure_requests"

    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[bytes]
    erasure_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.erasures.erasure_id", name="erasure_requests_erasure_fkey")
    )
    requested_by: Mapped[str]
    requested_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class ErasureDeletionRow(Base):
    """The deletions that an erasure waits for."""

    __tablename__ = "erasure_deletions"
    __table_args__ = (Index("erasure_deletions_deletion", "deletion_id"), {"schema": SCHEMA})

    erasure_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.erasures.erasure_id", name="erasure_deletions_erasure_fkey"), primary_key=True
    )
    deletion_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey(DeletionRow.deletion_id, name="erasure_deletions_deletion_fkey"), primary_key=True
    )
