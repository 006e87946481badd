"""What a restored backup brought back: the feed begins a new epoch, and what may have ended since is held until a person looks.

Nothing in a backup says what was done after it. So everything in it that acts by itself, and that somebody may have ended since,
is held: API keys, endpoints, operators' sign-ins, open deletions and erasures. Nothing is lost by that but time, and each is let
go by one command. Rejected: to hold only what is known to have ended. Only a person knows that.

**Numbers.** How far the lost future came is not known either. So numbers go on at the microseconds since 1970, which no earlier
epoch can have reached: it began at such a number too, or near zero, and a change takes longer than a microsecond. They stay exact
in JSON (below 2**53) until the year 2255. Rejected: a leap by a constant, which two restores of one backup would share.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core.deletion import HELD_SINCE_RESTORE, OPEN, next_phase
from cardsync.store.console import operators
from cardsync.store.customers import marked

LEAP_AT_LEAST: Final = 1_000_000_000  # where a clock is behind the numbers

_LOCK_HEAD = text("SELECT seq FROM cardsync.feed_head FOR UPDATE")
_BEGIN_EPOCH = text(f"""
    INSERT INTO cardsync.feed_epochs (epoch, restored_to, before_seq, after_seq)
    SELECT greatest(max(e.epoch) + 1, extract(epoch FROM clock_timestamp())::bigint), :restored_to, h.seq,
           greatest(h.seq + {LEAP_AT_LEAST}, floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    FROM cardsync.feed_head AS h CROSS JOIN cardsync.feed_epochs AS e GROUP BY h.seq
    RETURNING epoch, before_seq, after_seq
""")
_LEAP = text("UPDATE cardsync.feed_head SET seq = :after_seq")
# One that has all there is goes on with the new epoch; one that is behind gets first what it has not got.
_CURSORS = text("""
    UPDATE cardsync.endpoints SET cursor_seq = :after_seq, batch_last = NULL
    WHERE kind = 'changes' AND cursor_seq >= :before_seq
""")
_RING = text("SELECT cardsync.ring('registry_card_changes', cast(:epoch AS text))")


@dataclass(frozen=True, slots=True)
class Epoch:
    """The epoch that begins, the last number of the one before, and the number after which its own come."""

    epoch: int
    before_seq: int
    after_seq: int


def begin_epoch(connection: Connection, restored_to: dt.datetime | None) -> Epoch:
    """Begin a new epoch of the feed, and ring for it at the commit."""
    connection.execute(_LOCK_HEAD)
    begun = Epoch(*connection.execute(_BEGIN_EPOCH, {"restored_to": restored_to}).one())
    connection.execute(_LEAP, {"after_seq": begun.after_seq})
    connection.execute(_CURSORS, {"after_seq": begun.after_seq, "before_seq": begun.before_seq})
    connection.execute(_RING, {"epoch": begun.epoch})
    return begun


# Not undone by a rollback, as nothing of a sequence is: a number that is higher than needed does no harm.
_LEAP_OF_EVIDENCE = text(f"""
    SELECT setval('cardsync.observation_no', greatest(
        coalesce(pg_sequence_last_value('cardsync.observation_no'), 0) + {LEAP_AT_LEAST},
        floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint
    ))
""")


def leap_evidence(connection: Connection) -> int:
    """Let evidence numbers go on above any that the lost future gave; return the last one that is passed over."""
    last: int = connection.execute(_LEAP_OF_EVIDENCE).scalar_one()
    return last


_HOLD_KEYS = text("""
    UPDATE cardsync.api_keys SET revoked_at = clock_timestamp(), held_at = clock_timestamp()
    WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp()) AND created_at <= :until
""")
_HOLD_ENDPOINTS = text("""
    UPDATE cardsync.endpoints
    SET status = 'disabled', disabled_because = 'restored', disabled_at = clock_timestamp(), claimed_until = NULL,
        ticket = ticket + 1
    WHERE status = 'enabled' AND created_at <= :until
""")


# What operators asked for in the console and workers had not ended: it may have been done since, or cancelled.
_CANCEL_OPERATIONS = text("""
    SELECT count(cardsync.finish_operation(operation_id, 'cancelled', 'a backup was restored'))
    FROM cardsync.operations WHERE status = 'running' AND asked_at <= :until
""")


def cancel_operations(connection: Connection, until: dt.datetime) -> int:
    """Cancel what operators asked for until then and no worker has ended; return their number."""
    cancelled: int = connection.execute(_CANCEL_OPERATIONS, {"until": until}).scalar_one()
    return cancelled


def hold_keys(connection: Connection, until: dt.datetime) -> int:
    """Hold the valid keys that were made until then; return their number."""
    return connection.execute(_HOLD_KEYS, {"until": until}).rowcount


def hold_endpoints(connection: Connection, until: dt.datetime) -> int:
    """Disable the enabled endpoints that were made until then; return their number."""
    return connection.execute(_HOLD_ENDPOINTS, {"until": until}).rowcount


def hold_operators(connection: Connection, until: dt.datetime, *, by: str) -> int:
    """Disable the operators who were made until then, which ends their sessions and links; return their number."""
    known = [one for one in operators.listing(connection) if one.disabled_at is None and one.created_at <= until]
    return sum(operators.disable(connection, one.name, by=by) for one in known)


# A list says soon which of the cards are still there. Customers come first, as for every writer.
_LOOK_AT_CUSTOMERS = text(f"""
    UPDATE cardsync.customers AS c SET {marked(evidence_no="nextval('cardsync.observation_no')", lane="'deletion'")}
    WHERE c.id IN (
        SELECT d.customer FROM cardsync.deletions AS d WHERE d.phase = ANY(:phases) AND d.requested_at <= :until
        UNION ALL
        SELECT o.id FROM cardsync.customers AS o JOIN cardsync.erasures AS e ON e.customer_id = o.customer_id
        WHERE e.status <> 'done' AND e.requested_at <= :until
    )
""")
_HOLD_DELETIONS = text("""
    WITH found AS MATERIALIZED (
        SELECT deletion_id, phase FROM cardsync.deletions WHERE phase = ANY(:phases) AND requested_at <= :until FOR UPDATE
    ), held AS (
        UPDATE cardsync.deletions AS d
        SET phase = :after, due_at = 'infinity', rung_at = NULL, said_status = NULL, error = :error,
            since_no = nextval('cardsync.observation_no')
        FROM found AS f WHERE d.deletion_id = f.deletion_id RETURNING d.deletion_id, f.phase AS was
    )
    INSERT INTO cardsync.deletion_steps (deletion_id, step, detail)
    SELECT deletion_id, 'held', jsonb_build_object('because', 'restored', 'was', was) FROM held ORDER BY deletion_id
""")
# One that Ottu refused would go on by itself once its card is unlocked.
_HOLD_BLOCKED = text("""
    WITH held AS (
        UPDATE cardsync.deletions SET when_unlocked = false
        WHERE phase = 'blocked' AND when_unlocked AND requested_at <= :until RETURNING deletion_id
    )
    INSERT INTO cardsync.deletion_steps (deletion_id, step, detail)
    SELECT deletion_id, 'held', jsonb_build_object('because', 'restored', 'was', 'blocked') FROM held ORDER BY deletion_id
""")
_HOLD_ERASURES = text("""
    UPDATE cardsync.erasures SET status = 'blocked', error = :error, due_at = 'infinity'
    WHERE status <> 'done' AND requested_at <= :until
""")


def hold_deletions(connection: Connection, until: dt.datetime) -> int:
    """Hold the open deletions that were asked for until then, whatever was called; return their number.

    A deletion whose card is locked, and that waits for that to end, waits for an operator from now on.
    """
    (after,) = {next_phase(phase, "restored") for phase in OPEN}
    open_ones = {"phases": list(OPEN), "until": until}
    connection.execute(_LOOK_AT_CUSTOMERS, open_ones)
    held = connection.execute(_HOLD_DELETIONS, {**open_ones, "after": after, "error": HELD_SINCE_RESTORE}).rowcount
    return held + connection.execute(_HOLD_BLOCKED, {"until": until}).rowcount


def hold_erasures(connection: Connection, until: dt.datetime) -> int:
    """Hold the erasures that are under way and were asked for until then; return their number."""
    return connection.execute(_HOLD_ERASURES, {"until": until, "error": HELD_SINCE_RESTORE}).rowcount


@dataclass(frozen=True, slots=True)
class Held:
    """What still waits for a person since the last restore, and when that was."""

    restored_at: dt.datetime
    keys: int
    endpoints: int
    deletions: int
    erasures: int

    def __bool__(self) -> bool:
        """Tell whether anything waits."""
        return bool(self.keys or self.endpoints or self.deletions or self.erasures)


_HELD = text("""
    SELECT began_at,
        (SELECT count(*) FROM cardsync.api_keys WHERE held_at IS NOT NULL),
        (SELECT count(*) FROM cardsync.endpoints WHERE status = 'disabled' AND disabled_because = 'restored'),
        (SELECT count(*) FROM cardsync.deletions WHERE due_at = 'infinity' AND error = :error),
        (SELECT count(*) FROM cardsync.erasures WHERE status = 'blocked' AND due_at = 'infinity')
    FROM cardsync.feed_epochs WHERE epoch > 1 ORDER BY epoch DESC LIMIT 1
""")


def held(connection: Connection) -> Held | None:
    """What waits for a person since the last restore; ``None`` if no backup was ever restored."""
    row = connection.execute(_HELD, {"error": HELD_SINCE_RESTORE}).one_or_none()
    return None if row is None else Held(*row)
