"""The tables of what operators' long commands keep, as the migrations leave them (beside those of ``store.models``)."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Identity, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cardsync.db import SCHEMA
from cardsync.store.models import NOW, Base


class ImportRow(Base):
    """A file of customers that is being imported: how far it is read."""

    __tablename__ = "imports"

    content_hash: Mapped[bytes] = mapped_column(primary_key=True)
    offset_bytes: Mapped[int] = mapped_column(server_default=text("0"))
    line: Mapped[int] = mapped_column(server_default=text("0"))
    lines: Mapped[int] = mapped_column(server_default=text("0"))
    customers: Mapped[int] = mapped_column(server_default=text("0"))
    new: Mapped[int] = mapped_column(server_default=text("0"))
    bad: Mapped[int] = mapped_column(server_default=text("0"))
    bad_lines: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    began_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    advanced_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class WalkRow(Base):
    """A walk over all customers; one at a time is open. Who has been looked at since ``began_at`` is done."""

    __tablename__ = "walks"
    __table_args__ = (
        Index("walks_one_is_open", text("(ended_at IS NULL)"), unique=True, postgresql_where=text("ended_at IS NULL")),
        {"schema": SCHEMA},
    )

    walk_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    began_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    began_by: Mapped[str]
    expected: Mapped[int]
    last_customer: Mapped[int]
    ended_at: Mapped[dt.datetime | None]
