"""The tables of imports, full resyncs, audits, the brake and locks, as the migrations leave them.

They stand beside those of ``store.schema.registry``.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import Double, ForeignKey, Identity, Index, Integer, SmallInteger, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cardsync.db import SCHEMA
from cardsync.store.schema.registry import NOW, Base


class SecretKeyRow(Base):
    """A secret key that opens this database, by its id, and the key of the fingerprints, wrapped by it."""

    __tablename__ = "secret_keys"

    key_id: Mapped[bytes] = mapped_column(primary_key=True)
    fingerprint_key: Mapped[bytes]
    added_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class TokenReadRow(Base):
    """One token that an API key was given. No foreign keys: a record outlives the card, and never holds up its removal."""

    __tablename__ = "token_reads"
    __table_args__ = (
        Index("token_reads_at", "at"),
        Index("token_reads_card", "card_id", "at"),
        {"schema": SCHEMA},
    )

    read_no: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    key_id: Mapped[uuid.UUID]
    card_id: Mapped[uuid.UUID]


class KeptAnswerRow(Base):
    """What an idempotency key got, for a request by API that is sent again. A row without an answer is never committed."""

    __tablename__ = "kept_answers"
    __table_args__ = (Index("kept_answers_kept_at", "kept_at"), {"schema": SCHEMA})

    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[bytes]
    status: Mapped[int | None] = mapped_column(Integer)
    location: Mapped[str | None]
    body: Mapped[str | None]
    kept_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)


class RequestedLookRow(Base):
    """A look at a customer that was asked for by API, so that its end can be asked about."""

    __tablename__ = "requested_looks"
    __table_args__ = (
        Index("requested_looks_requested_at", "requested_at"),
        Index("requested_looks_customer", "customer"),
        {"schema": SCHEMA},
    )

    reconciliation_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    customer: Mapped[int] = mapped_column(
        ForeignKey(f"{SCHEMA}.customers.id", name="requested_looks_customer_fkey", ondelete="CASCADE")
    )
    asker: Mapped[str]
    requested_at: Mapped[dt.datetime]


class ImportRow(Base):
    """A file of customers that is being imported, and how far it has been read."""

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


class ResyncRow(Base):
    """A full resync: a look at every customer; at most one is open. A customer looked at since ``began_at`` is done."""

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


_WAITING = text("verdict IS NULL")


class AuditRow(Base):
    """A customer who was drawn, and the verdict of the next believed list on the cards that were served until then."""

    __tablename__ = "audits"
    __table_args__ = (
        Index("audits_one_waits", "customer", unique=True, postgresql_where=_WAITING),
        Index("audits_customer", "customer"),
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


class BrakeRow(Base):
    """One row: the evidence of the brake on removals, and the look that engaged it (``store.brake``)."""

    __tablename__ = "brake"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    excess: Mapped[float] = mapped_column(Double, server_default=text("0"))
    confirmed: Mapped[int] = mapped_column(server_default=text("0"))
    counted: Mapped[list[int]] = mapped_column(server_default=text("'{}'::bigint[]"))
    lacked: Mapped[int] = mapped_column(server_default=text("0"))
    accepted: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    released_at: Mapped[dt.datetime | None]
    release_told_at: Mapped[dt.datetime | None]
    example_customer: Mapped[int | None]
    example_observation: Mapped[int | None]
    example_expected: Mapped[int | None] = mapped_column(Integer)
    example_lacked: Mapped[int | None] = mapped_column(Integer)


class BrakeConfirmationsRow(Base):
    """How many looks confirmed all cards, counted in a few rows, so that looks do not wait for each other."""

    __tablename__ = "brake_confirmations"

    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    confirmed: Mapped[int]


class LockRow(Base):
    """A lock: held by the session that has the row locked or, as a lease, by ``holder`` until ``held_until``."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[uuid.UUID | None]
    held_until: Mapped[dt.datetime | None]


class HeartbeatRow(Base):
    """A process: when it was last at work, and its host's clock minus the database's (``store.heartbeats``)."""

    __tablename__ = "heartbeats"

    kind: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(primary_key=True)
    pid: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    started_at: Mapped[dt.datetime]
    at: Mapped[dt.datetime]
    clock_ahead_seconds: Mapped[float] = mapped_column(Double)
    connections: Mapped[int | None] = mapped_column(Integer)


class HeldKeyRow(Base):
    """An idempotency key that a running request holds; no transaction leaves a row (migration 0034)."""

    __tablename__ = "held_keys"
    __table_args__ = {"schema": SCHEMA, "prefixes": ["UNLOGGED"]}  # noqa: RUF012 -- SQLAlchemy's own form

    key: Mapped[str] = mapped_column(primary_key=True)


class MigrationLockRow(Base):
    """One row: the session that migrates. Made by ``migrations/env.py`` itself, before the first migration."""

    __tablename__ = "migration_lock"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    pid: Mapped[int | None] = mapped_column(Integer)
    session_began: Mapped[dt.datetime | None]
