"""Who may do what in the database: one table, which migrations grant from and a test compares the database with.

Rules: a process may do what its code does and no more; nobody but the owner, as whom migrations run, makes or alters anything;
nobody at all changes the feed or a receipt, which the database writes itself; what is not named here is granted to nobody, and
there are no default privileges, so that a new table is seen by none until somebody decides (a test asks).

The newest migration grants all of it anew, in its own transaction, and so does each ``cardsync db upgrade --...-login``. Code of
the release before runs beside it: what that code needs stays here for one release more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection

WEB: Final = "cardsync_web"
WORKER: Final = "cardsync_worker"  # beat too: of the database it wants a lock, and what `doctor` reads
READER: Final = "cardsync_reader"
CHARGER: Final = "cardsync_charger"
DELETER: Final = "cardsync_deleter"

PROCESSES: Final = (WEB, WORKER)
OTHERS: Final = (READER, CHARGER, DELETER)  # services of the merchant's, which query `registry`
ROLES: Final = (*PROCESSES, *OTHERS)

Rights = Mapping[str, str]  # role -> privileges as GRANT spells them

NOBODY: Final[Rights] = {}
SERVICES: Final[Rights] = dict.fromkeys(OTHERS, "SELECT")

SCHEMAS: Final[Mapping[str, Rights]] = {
    "cardsync": dict.fromkeys(PROCESSES, "USAGE"),
    "registry": dict.fromkeys(ROLES, "USAGE"),
}

# Tables and views. The web reads no token but through `registry.card_tokens`, for keys with the scope `tokens:read`: what is
# broken into first is what stands nearest to the world.
RELATIONS: Final[Mapping[str, Rights]] = {
    "cardsync.alembic_version": dict.fromkeys(PROCESSES, "SELECT"),
    "cardsync.events": {
        WEB: (
            "INSERT, SELECT (event_id, body_hash, status, received_at, environment, customer_id, shed_at), "
            "UPDATE (status, attempts, due_at)"
        ),
        WORKER: "SELECT, UPDATE, DELETE",
    },
    "cardsync.customers": {
        WEB: (
            "SELECT, INSERT (environment, customer_id), "
            "UPDATE (environment, dirty_no, dirty_since, due_at, lane, rung_at)"
        ),
        WORKER: "SELECT, INSERT, UPDATE",
    },
    "cardsync.cards": {
        WEB: "SELECT (card_id, customer, fingerprint, status)",
        WORKER: "SELECT, INSERT, UPDATE, DELETE",
    },
    "cardsync.agreements": {WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    "cardsync.repeated_signatures": {WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    "cardsync.card_changes": NOBODY,
    "cardsync.feed_head": {WEB: "SELECT"},
    "cardsync.observations": {WORKER: "SELECT, INSERT, DELETE"},
    "cardsync.audits": {WEB: "SELECT", WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    "cardsync.call_minutes": {WEB: "SELECT", WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    # Whichever process comes first binds the database to its secret key.
    "cardsync.gate": {WEB: "SELECT, UPDATE (secret_check)", WORKER: "SELECT, UPDATE"},
    "cardsync.schedule": {WORKER: "SELECT, UPDATE"},
    "cardsync.api_keys": {WEB: "SELECT"},
    # Asked for by one function (below), as whose owner it is written.
    "cardsync.deletions": {WEB: "SELECT", WORKER: "SELECT, UPDATE"},
    "cardsync.deletion_keys": NOBODY,
    "cardsync.deletion_steps": {WEB: "SELECT", WORKER: "INSERT"},
    "cardsync.receipt_chain": {WEB: "SELECT"},
    "cardsync.receipt_head": NOBODY,
    "cardsync.erasures": {
        WEB: "SELECT, INSERT (customer_id, requested_by, reason), UPDATE (asked_no, due_at, status, error)",
        WORKER: "SELECT, UPDATE",
    },
    "cardsync.erasure_requests": {WEB: "SELECT, INSERT"},
    "cardsync.erasure_deletions": dict.fromkeys(PROCESSES, "SELECT, INSERT"),
    # What an operator's commands keep, who run as the worker.
    "cardsync.imports": {WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    "cardsync.walks": {WORKER: "SELECT, INSERT, UPDATE"},
    "registry.cards": {WEB: "SELECT", **SERVICES},
    "registry.active_cards": SERVICES,
    "registry.card_tokens": {WEB: "SELECT", CHARGER: "SELECT"},
    "registry.agreement_cards": {WEB: "SELECT", **SERVICES},
    "registry.customers": {WEB: "SELECT", **SERVICES},
    "registry.card_changes": SERVICES,
    "registry.deletions": {WEB: "SELECT", WORKER: "SELECT", **SERVICES},
}

# A column that counts by itself (GENERATED ... AS IDENTITY) needs no right on its sequence.
SEQUENCES: Final[Mapping[str, Rights]] = {
    "cardsync.observation_no": dict.fromkeys(PROCESSES, "USAGE"),
    "cardsync.customers_id_seq": NOBODY,
    "cardsync.deletion_steps_step_id_seq": NOBODY,
    "cardsync.walks_walk_id_seq": NOBODY,
    "cardsync.audits_audit_no_seq": NOBODY,
}

# Triggers' functions run whoever changes the table, and are called by nobody.
FUNCTIONS: Final[Mapping[str, Rights]] = {
    "cardsync.record_card_change()": NOBODY,
    "cardsync.refuse_change()": NOBODY,
    "cardsync.chain_deletion_step()": NOBODY,
    "cardsync.request_deletion(uuid, text, text, text, bytea, boolean)": dict.fromkeys(PROCESSES, "EXECUTE"),
    "registry.request_deletion(uuid, text, text)": {DELETER: "EXECUTE"},
}

_KINDS: Final = (("SCHEMA", SCHEMAS), ("TABLE", RELATIONS), ("SEQUENCE", SEQUENCES), ("FUNCTION", FUNCTIONS))


def grant_all(connection: Connection) -> None:
    """Grant to each role what stands here and take from it what does not, in the caller's transaction.

    For the owner, on a database at the newest migration. Readers see the old or the new rights, never none.
    """
    roles = ", ".join(ROLES)
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        connection.exec_driver_sql(f"REVOKE ALL ON ALL {kind} IN SCHEMA {', '.join(SCHEMAS)} FROM PUBLIC, {roles}")
    connection.exec_driver_sql(f"REVOKE ALL ON SCHEMA {', '.join(SCHEMAS)} FROM PUBLIC, {roles}")
    for kind, things in _KINDS:
        for name, rights in things.items():
            for role, privileges in rights.items():
                connection.exec_driver_sql(f"GRANT {privileges} ON {kind} {name} TO {role}")
