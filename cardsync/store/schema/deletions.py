"""The tables of deletions and of their receipts, as the migrations leave them (beside those of ``store.schema.registry``)."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import ForeignKey, Identity, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from cardsync.db import SCHEMA
from cardsync.store.schema.registry import NEXT_NO, NOW, Base

_OPEN = text("phase IN ('asked', 'calling', 'proving', 'refused')")


class DeletionRow(Base):
    """One request to delete a card; ``phase`` is a state of ``core.deletion``, ``life`` is the card's life that is meant."""

    __tablename__ = "deletions"
    __table_args__ = (
        Index("deletions_one_open", "card_id", unique=True, postgresql_where=_OPEN),
        Index("deletions_one_done_a_life", "card_id", "life", unique=True, postgresql_where=text("phase = 'done'")),
        Index("deletions_card", "card_id", "requested_at"),
        Index("deletions_customer", "customer"),
        Index("deletions_due", "due_at", postgresql_where=text("phase = 'asked'")),
        Index("deletions_open", "requested_at", postgresql_where=_OPEN),
        Index("deletions_newly_asked", "due_at", postgresql_where=text("phase = 'asked' AND rung_at <= due_at")),
        Index("deletions_requested_at", "requested_at"),
        Index(
            "deletions_ended_badly",
            "finished_at",
            "deletion_id",
            postgresql_where=text("phase IN ('blocked', 'failed')"),
        ),
        Index("deletions_blocked", "finished_at", "deletion_id", postgresql_where=text("phase = 'blocked'")),
        Index(
            "deletions_failed",
            "finished_at",
            "deletion_id",
            postgresql_where=text("phase = 'failed' AND error IS DISTINCT FROM 'cancelled'"),
        ),
        Index(
            "deletions_held_since",
            "requested_at",
            "deletion_id",
            postgresql_where=text("due_at = 'infinity'::timestamp with time zone"),
        ),
        Index(
            "deletions_held_of",
            "asker",
            "requested_at",
            "deletion_id",
            postgresql_where=text("due_at = 'infinity'::timestamp with time zone"),
        ),
        Index(
            "deletions_held",
            "asker",
            "deletion_id",
            postgresql_where=text("due_at = 'infinity'::timestamp with time zone"),
        ),
        {"schema": SCHEMA},
    )

    deletion_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    card_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(f"{SCHEMA}.cards.card_id", name="deletions_card_fkey"))
    life: Mapped[int] = mapped_column(Integer)
    customer: Mapped[int] = mapped_column(ForeignKey(f"{SCHEMA}.customers.id", name="deletions_customer_fkey"))
    phase: Mapped[str]
    when_unlocked: Mapped[bool] = mapped_column(server_default=text("false"))
    requested_by: Mapped[str]
    reason: Mapped[str | None]
    requested_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    tried_since: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    since_no: Mapped[int] = mapped_column(server_default=NEXT_NO)
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    called_at: Mapped[dt.datetime | None]
    said_status: Mapped[int | None] = mapped_column(Integer)
    proof_no: Mapped[int | None]
    locked_by: Mapped[list[str]] = mapped_column(server_default=text("'{}'::text[]"))
    due_at: Mapped[dt.datetime | None]
    rung_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]
    error: Mapped[str | None]
    asker: Mapped[str | None]


class DeletionAskerRow(Base):
    """How many deletions an asker asked for on a day, and since when the brake holds what it asks for."""

    __tablename__ = "deletion_askers"

    asker: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[dt.date]
    asked: Mapped[int] = mapped_column(Integer)
    held_since: Mapped[dt.datetime | None]
    told_at: Mapped[dt.datetime | None]


class DeletionBrakeRow(Base):
    """The brake's settings, where the function that takes requests finds them; workers keep them as theirs are."""

    __tablename__ = "deletion_brake"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    share: Mapped[float] = mapped_column(server_default=text("0.01"))
    floor: Mapped[int] = mapped_column(Integer, server_default=text("100"))


class DeletionKeyRow(Base):
    """The hash of an idempotency key and of its asker, and the deletion that it got."""

    __tablename__ = "deletion_keys"
    __table_args__ = (Index("deletion_keys_deletion", "deletion_id"), {"schema": SCHEMA})

    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    deletion_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.deletions.deletion_id", name="deletion_keys_deletion_fkey")
    )
    request_hash: Mapped[bytes | None]


class DeletionStepRow(Base):
    """One step of a deletion: append-only, and chained when its transaction commits."""

    __tablename__ = "deletion_steps"
    __table_args__ = (Index("deletion_steps_deletion", "deletion_id", "step_id"), {"schema": SCHEMA})

    step_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    deletion_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey(f"{SCHEMA}.deletions.deletion_id", name="deletion_steps_deletion_fkey")
    )
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    step: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))


class ReceiptChainRow(Base):
    """A step's place in the chain, and the hash over it and all steps before; written by a deferred trigger alone."""

    __tablename__ = "receipt_chain"
    __table_args__ = (Index("receipt_chain_step_key", "step_id", unique=True), {"schema": SCHEMA})

    step_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step_id: Mapped[int] = mapped_column(ForeignKey(f"{SCHEMA}.deletion_steps.step_id", name="receipt_chain_step_fkey"))
    hash: Mapped[bytes]


class ReceiptHeadRow(Base):
    """The chain's last number and hash: one row, locked only while a transaction commits."""

    __tablename__ = "receipt_head"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    step_no: Mapped[int] = mapped_column(server_default=text("0"))
    hash: Mapped[bytes] = mapped_column(server_default=text("decode(repeat('00', 32), 'hex')"))


class UnchainedStepRow(Base):
    """A step that a service asked for by SQL: it is chained after the commit of its transaction, not in it."""

    __tablename__ = "unchained_steps"

    step_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class ReceiptSealRow(Base):
    """The chain's hash at one step, signed with a key that is not in the database."""

    __tablename__ = "receipt_seals"

    step_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hash: Mapped[bytes]
    sealed_at: Mapped[dt.datetime]
    seal: Mapped[bytes]
