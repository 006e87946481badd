"""The tables of the console's operators, as the migrations leave them (beside those of ``store.schema.registry``)."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import ForeignKey, Identity, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from cardsync.db import SCHEMA
from cardsync.store.schema.registry import NOW, Base


class OperatorRow(Base):
    """A person who may use the console, under one name for good; ``link_hash`` is that of an invitation not used yet."""

    __tablename__ = "operators"
    __table_args__ = (
        UniqueConstraint("name", name="operators_name_key"),
        Index("operators_link_hash_key", "link_hash", unique=True, postgresql_where=text("link_hash IS NOT NULL")),
        Index("operators_subject_key", "issuer", "subject", unique=True, postgresql_where=text("subject IS NOT NULL")),
        {"schema": SCHEMA},
    )

    operator_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    name: Mapped[str]
    role: Mapped[str]
    issuer: Mapped[str | None]
    subject: Mapped[str | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    disabled_at: Mapped[dt.datetime | None]
    link_hash: Mapped[bytes | None]
    link_expires_at: Mapped[dt.datetime | None]
    signed_in_at: Mapped[dt.datetime | None]


class ConsoleSessionRow(Base):
    """A session of the console, by the hash of its secret."""

    __tablename__ = "console_sessions"
    __table_args__ = (
        Index("console_sessions_operator", "operator_id", postgresql_where=text("ended_at IS NULL")),
        Index("console_sessions_expires_at", "expires_at"),
        {"schema": SCHEMA},
    )

    session_hash: Mapped[bytes] = mapped_column(primary_key=True)
    operator_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey(OperatorRow.operator_id, name="console_sessions_operator_fkey")
    )
    began_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[dt.datetime] = mapped_column(server_default=text("(clock_timestamp() + '12:00:00'::interval)"))
    ended_at: Mapped[dt.datetime | None]


class OperatorActionRow(Base):
    """What an operator did: append-only, and chained when its transaction commits."""

    __tablename__ = "operator_actions"
    __table_args__ = (
        Index(
            "operator_actions_request_key",
            "operator_id",
            "request_key",
            unique=True,
            postgresql_where=text("request_key IS NOT NULL"),
        ),
        Index("operator_actions_subject", "kind", "subject", "action_id"),
        {"schema": SCHEMA},
    )

    action_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    operator_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey(OperatorRow.operator_id, name="operator_actions_operator_fkey")
    )
    actor: Mapped[str]
    action: Mapped[str]
    kind: Mapped[str]
    subject: Mapped[str]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    reason: Mapped[str | None]
    came_from: Mapped[str | None]
    request_key: Mapped[uuid.UUID | None]


class OperatorActionChainRow(Base):
    """An action's place in the chain, and the hash over it and all actions before; written by a deferred trigger alone."""

    __tablename__ = "operator_action_chain"
    __table_args__ = (Index("operator_action_chain_action_key", "action_id", unique=True), {"schema": SCHEMA})

    action_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    action_id: Mapped[int] = mapped_column(
        ForeignKey(OperatorActionRow.action_id, name="operator_action_chain_action_fkey")
    )
    hash: Mapped[bytes]


class OperatorActionHeadRow(Base):
    """The chain's last number and hash: one row, locked only while a transaction commits."""

    __tablename__ = "operator_action_head"

    singleton: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    action_no: Mapped[int] = mapped_column(server_default=text("0"))
    hash: Mapped[bytes] = mapped_column(server_default=text("decode(repeat('00', 32), 'hex')"))


class OperatorActionSealRow(Base):
    """The journal's hash at one action, signed with a key that is not in the database."""

    __tablename__ = "operator_action_seals"

    action_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hash: Mapped[bytes]
    sealed_at: Mapped[dt.datetime]
    seal: Mapped[bytes]


class OperationRow(Base):
    """What an operator asked for and a worker carries out; ``filter`` is frozen, ``place`` is how far it is."""

    __tablename__ = "operations"
    __table_args__ = (
        Index("operations_running", "asked_at", postgresql_where=text("status = 'running'")),
        Index("operations_one_at_a_time", "kind", "subject", unique=True, postgresql_where=text("status = 'running'")),
        Index("operations_asked_at", "asked_at", "operation_id"),
        {"schema": SCHEMA},
    )

    operation_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    kind: Mapped[str]
    subject: Mapped[str]
    filter: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    status: Mapped[str] = mapped_column(server_default=text("'running'"))
    operator_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(OperatorRow.operator_id, name="operations_operator_fkey"))
    actor: Mapped[str]
    came_from: Mapped[str | None]
    reason: Mapped[str | None]
    asked_at: Mapped[dt.datetime] = mapped_column(server_default=NOW)
    expected: Mapped[int] = mapped_column(server_default=text("1"))
    done: Mapped[int] = mapped_column(server_default=text("0"))
    failed: Mapped[int] = mapped_column(server_default=text("0"))
    failures: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    place: Mapped[dict[str, Any] | None]
    claimed_until: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]
    error: Mapped[str | None]
    answer: Mapped[str | None]
