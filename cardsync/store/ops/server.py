"""What PostgreSQL itself says of the server and of this session: for ``cardsync doctor``, which judges it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Durability:
    """The server's version, and those settings by which a commit survives a crash (``on``, ``off``, ...)."""

    version: int
    fsync: str
    synchronous_commit: str
    full_page_writes: str

    @property
    def turned_off(self) -> tuple[str, ...]:
        """The settings without which an accepted hint can be lost: ``local`` and stronger wait for the disk."""
        return tuple(
            name for name in ("fsync", "synchronous_commit", "full_page_writes") if getattr(self, name) == "off"
        )


_DURABILITY = text("""
    SELECT current_setting('server_version_num')::int / 10000, current_setting('fsync'),
           current_setting('synchronous_commit'), current_setting('full_page_writes')
""")


def durability(connection: Connection) -> Durability:
    """Read what a commit is worth on this server."""
    return Durability(*connection.execute(_DURABILITY).one())


_IS_READ_ONLY = text("SELECT current_setting('transaction_read_only')::boolean")


def is_read_only(connection: Connection) -> bool:
    """Whether the server, or the database's or the login's own setting, lets this session write nothing."""
    return bool(connection.execute(_IS_READ_ONLY).scalar_one())


_PREPARED = text("""
    SELECT count(*) FROM pg_prepared_xacts
    WHERE database = current_database() AND prepared < now() - make_interval(secs => :seconds)
""")


def prepared_transactions(connection: Connection, *, older_than_seconds: float) -> int:
    """Count the transactions of this database that were prepared before that, and not ended."""
    count: int = connection.execute(_PREPARED, {"seconds": older_than_seconds}).scalar_one()
    return count


_IS_ENCRYPTED = text("SELECT coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()), false)")


def session_is_encrypted(connection: Connection) -> bool:
    """Whether this session runs over TLS."""
    return bool(connection.execute(_IS_ENCRYPTED).scalar_one())


_LOGGING = text("""
    SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN (
        'log_parameter_max_length', 'log_statement', 'log_min_duration_statement', 'log_min_duration_sample',
        'log_transaction_sample_rate', 'log_error_verbosity',
        'auto_explain.log_min_duration', 'auto_explain.log_parameter_max_length'
    )
""")


def logging_settings(connection: Connection) -> Mapping[str, str]:
    """Those settings of the server that decide whether values of statements or rows come into its log."""
    return {row.name: row.setting for row in connection.execute(_LOGGING)}


# Sessions in all databases; the server keeps some for superusers. In ``pg_stat_activity`` a login sees the kind of its own alone.
_SESSIONS = text("""
    SELECT (SELECT sum(numbackends)::int FROM pg_stat_database),
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
""")


def sessions(connection: Connection) -> tuple[int, int]:
    """How many sessions are in use in all databases, and how many there may be."""
    used, most = connection.execute(_SESSIONS).one()
    return used, most


@dataclass(frozen=True, slots=True)
class LateSlot:
    """A replication slot that has no reader, or whose reader is far behind.

    ``kept`` is how much of the log it keeps, and nothing of one that is lost: the server gave up keeping the log for it.
    ``is_beyond`` tells whether that is more than ``max_wal_size``.
    """

    name: str
    kept: str | None
    is_read: bool
    is_beyond: bool

    @property
    def is_lost(self) -> bool:
        """Whether its reader can never go on."""
        return self.kept is None


# A slot without a place in the log was just made, or is lost.
_SLOTS = text("""
    SELECT slot_name, CASE WHEN wal_status <> 'lost' THEN pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) END,
           active, wal_status NOT IN ('reserved', 'lost')
    FROM pg_replication_slots
    WHERE NOT temporary AND (wal_status <> 'reserved' OR NOT active) AND (wal_status = 'lost' OR restart_lsn IS NOT NULL)
    ORDER BY restart_lsn, slot_name
""")


def late_slots(connection: Connection) -> list[LateSlot]:
    """The slots of the server, of all databases, that hold back its log and are not read, or not fast enough. On a primary."""
    return [LateSlot(*row) for row in connection.execute(_SLOTS)]


def wal_level(connection: Connection) -> str:
    """How much the server writes into its log: changes can be decoded from ``logical`` alone."""
    return str(connection.execute(text("SELECT current_setting('wal_level')")).scalar_one())


_IS_STANDBY = text("SELECT pg_is_in_recovery()")


def is_standby(connection: Connection) -> bool:
    """Whether the server only follows another one."""
    return bool(connection.execute(_IS_STANDBY).scalar_one())
