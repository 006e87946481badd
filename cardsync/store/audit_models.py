"""The table of audits, as the migrations leave it (beside those of ``store.models``)."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ForeignKey, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from cardsync.db import SCHEMA
from cardsync.store.models import NOW, Base

_WAITING = text("verdict IS NULL")


class AuditRow(Base):
    """A customer who was drawn, and what the next believed list said of what had been served until then."""

    __tablename__ = "audits"
    __table_args__ = (
        Index("audits_one_waits", "customer", unique=True, postgresql_where=_WAITING),
        Index("audits_drawn_at", "drawn_at"),
        Index("audits_judged_at", "judged_at"),
        {"schema": SCHEMA},
    )

    audit_no: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    customer: Mapped[int] = mapped_column(ForeignKey(f"{SCHEMA}.customers.id", name="audits_customer_fkey"))
    drawn_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    observation_no: Mapped[int | None]
    judged_at: Mapped[dt.datetime | None]
    verdict: Mapped[str | None]
    causes: Mapped[list[str]] = mapped_column(server_default=text("'{}'::text[]"))
