"""Privileges in the database: one table. Migrations grant from it, and a test compares the database with it.

Names stand here with the usual prefix; a deployment may have another one (``role_names``).

Rules:

- A process may do what its code does, and no more.
- Only the owner makes or alters objects; migrations run as the owner.
- No role can change the feed or a receipt: the database writes these itself.
- An object that is not named here is granted to no role, and there are no default privileges. So a new table cannot be used until
  its rights are decided (a test asks for that).

The newest migration grants all of it again, in its own transaction, and so does each ``cardsync db upgrade --...-login``. Code of
the release before runs beside the new one: the rights that it needs stay here for one release more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sqlalchemy import Connection

from cardsync.db.session import ROLE_PREFIX
from cardsync.store.access import console_rights
from cardsync.store.access.role_names import named

WEB: Final = "cardsync_web"
WORKER: Final = "cardsync_worker"  # beat too: of the database it wants a lock, and what `doctor` reads
CONSOLE: Final = "cardsync_console"  # what it may stands in ``console_rights``
READER: Final = "cardsync_reader"
CHARGER: Final = "cardsync_charger"
DELETER: Final = "cardsync_deleter"

PROCESSES: Final = (WEB, WORKER)
OTHERS: Final = (READER, CHARGER, DELETER)  # services of the merchant's, which query `registry`
ROLES: Final = (*PROCESSES, CONSOLE, *OTHERS)

Rights = Mapping[str, str]  # role -> privileges as GRANT spells them

NOBODY: Final[Rights] = {}
SERVICES: Final[Rights] = dict.fromkeys(OTHERS, "SELECT")

SCHEMAS: Final[Mapping[str, Rights]] = {
    "cardsync": dict.fromkeys((*PROCESSES, CONSOLE), "USAGE"),
    "registry": dict.fromkeys(ROLES, "USAGE"),
}

# Tables and views. The web reads no token but through `cardsync.give_tokens`, which records each, for keys with the scope
# `tokens:read`: what is broken into first is what stands nearest to the world.
_RELATIONS: Final[Mapping[str, Rights]] = {
    "cardsync.alembic_version": dict.fromkeys(PROCESSES, "SELECT"),
    # A trigger refuses an ``evidence_no`` that was not drawn: the statement that stores a batch numbers it in its order.
    "cardsync.events": {
        WEB: (
            "INSERT, SELECT (event_id, body_hash, status, received_at, environment, customer_id, shed_at, repeated, "
            "signature_hash, evidence_no), UPDATE (status, attempts, due_at)"
        ),
        WORKER: "SELECT, INSERT, UPDATE, DELETE",  # it stores what the inquiry endpoint answers
    },
    "cardsync.customers": {
        # ``environment`` for code of the release before, which writes it unchanged; a trigger refuses another value. Another
        # one refuses a ``dirty_no`` that was not drawn.
        WEB: (
            "SELECT, INSERT (environment, customer_id, hinted_at, probation_since), "
            "UPDATE (environment, hinted_at, probation_since, dirty_no, dirty_since, due_at, lane, rung_at, look_by)"
        ),
        WORKER: "SELECT, INSERT, UPDATE",
    },
    "cardsync.cards": {
        WEB: "SELECT (card_id, customer, fingerprint, status)",
        WORKER: "SELECT, INSERT, UPDATE, DELETE",
    },
    "cardsync.agreements": {WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    # The web notes charges that billing tells of, and readers' wishes to ask Ottu.
    "cardsync.known_agreements": {
        WEB: (
            "SELECT, INSERT (environment, agreement_id, customer, due_at, lane, without_card_since), "
            "UPDATE (charges, told_next_at, expected_at, cycle_months, cycle_days, due_at, lane)"
        ),
        WORKER: "SELECT, INSERT, UPDATE, DELETE",
    },
    # The web notes readers' wishes to ask Ottu.
    "cardsync.gateway_asks": {
        WEB: "SELECT, INSERT (customer, pg_code, due_at), UPDATE (wanted_at, due_at)",
        WORKER: "SELECT, UPDATE, DELETE",
    },
    # Only `cardsync db upgrade` writes it.
    "cardsync.calendar": dict.fromkeys(PROCESSES, "SELECT"),
    "cardsync.signatures": {
        WEB: "SELECT, INSERT, UPDATE (named_card)",
        WORKER: "SELECT, INSERT, UPDATE, DELETE",  # what the inquiry endpoint answers is stored by the worker
    },
    "cardsync.inquiries": {WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    "cardsync.repeated_signatures": {WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    "cardsync.card_changes": NOBODY,
    "cardsync.feed_head": dict.fromkeys(PROCESSES, "SELECT"),
    "cardsync.feed_epochs": dict.fromkeys(PROCESSES, "SELECT"),
    "cardsync.asking_transactions": NOBODY,
    "cardsync.unnumbered_changes": NOBODY,
    "cardsync.observations": {WORKER: "SELECT, INSERT, DELETE"},
    "cardsync.audits": {WEB: "SELECT", WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    "cardsync.call_minutes": {WEB: "SELECT", WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    "cardsync.gate": {WEB: "SELECT", WORKER: "SELECT, UPDATE"},
    # Each process makes a new secret key known in a rotation. A row that is made up opens nothing; none can be changed.
    "cardsync.secret_keys": dict.fromkeys(PROCESSES, "SELECT, INSERT"),
    # A function writes what was read and the worker forgets it; neither can change it. The web's right is the release's before.
    "cardsync.token_reads": {WEB: "INSERT (key_id, card_id)", WORKER: "SELECT (read_no, at), DELETE"},
    "cardsync.schedule": {WORKER: "SELECT, UPDATE"},
    "cardsync.brake": {WORKER: "SELECT, UPDATE"},
    "cardsync.brake_confirmations": {WORKER: "SELECT, INSERT, UPDATE"},
    # A login that may lock such a row may stop all sweeps: only the process that sweeps may.
    "cardsync.locks": {WORKER: "SELECT, INSERT, UPDATE"},
    "cardsync.heartbeats": {WEB: "SELECT", WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    "cardsync.held_keys": NOBODY,
    "cardsync.migration_lock": NOBODY,
    "cardsync.api_keys": {WEB: "SELECT", WORKER: "SELECT (held_at)"},  # the worker's for `doctor`
    "cardsync.kept_answers": {
        WEB: "SELECT, INSERT (idempotency_key, request_hash), UPDATE (status, location, body)",
        WORKER: "SELECT (idempotency_key, kept_at), DELETE",
    },
    "cardsync.requested_looks": {
        WEB: "SELECT, INSERT (customer, asker, requested_at)",
        WORKER: "SELECT (reconciliation_id, requested_at), DELETE",
    },
    "cardsync.key_use": {WEB: "SELECT, INSERT, UPDATE"},
    # Asked for by one function (below), as whose owner it is written.
    "cardsync.deletions": {WEB: "SELECT", WORKER: "SELECT, UPDATE"},
    "cardsync.deletion_keys": NOBODY,
    "cardsync.deletion_askers": {WEB: "SELECT", WORKER: "SELECT, UPDATE (day, asked, held_since, told_at)"},
    "cardsync.deletion_brake": {WORKER: "SELECT, UPDATE (share, floor)"},
    "cardsync.deletion_steps": {WEB: "SELECT", WORKER: "INSERT"},
    "cardsync.unchained_steps": NOBODY,
    "cardsync.receipt_chain": {WEB: "SELECT", WORKER: "SELECT (step_no, hash)"},
    "cardsync.receipt_head": {WORKER: "SELECT"},
    "cardsync.receipt_seals": {WORKER: "SELECT, INSERT"},
    "cardsync.erasures": {
        WEB: "SELECT, INSERT (customer_id, requested_by, reason, asker), UPDATE (asked_no, due_at, status, error)",
        WORKER: "SELECT, INSERT (customer_id, requested_by, reason, asker), UPDATE",
    },
    "cardsync.erasure_requests": {WEB: "SELECT, INSERT"},
    "cardsync.erasure_deletions": dict.fromkeys(PROCESSES, "SELECT, INSERT"),
    # The web keeps what is to be passed on, and can read neither a body nor an address nor a secret.
    "cardsync.endpoints": {
        WEB: "SELECT (endpoint_id, name, kind, status, disabled_at, opened_at, cursor_seq)",
        WORKER: "SELECT, INSERT, UPDATE",
    },
    "cardsync.kept_bodies": {
        WEB: (
            "SELECT (event_id, signature_hash, received_at), "
            "INSERT (event_id, signature_hash, received_at, kept_since, customer_id, session_id, content_type, body)"
        ),
        WORKER: "SELECT, INSERT, UPDATE, DELETE",
    },
    "cardsync.deliveries": {
        WEB: "SELECT (endpoint_id, status, made_at), INSERT (endpoint_id, event_id)",
        WORKER: "SELECT, INSERT, UPDATE, DELETE",
    },
    # What an operator's commands keep, who run as the worker.
    "cardsync.imports": {WORKER: "SELECT, INSERT, UPDATE, DELETE"},
    "cardsync.walks": {WORKER: "SELECT, INSERT, UPDATE"},
    # The worker carries out what operators ask for, and looks again whether they may.
    "cardsync.operations": {WORKER: "SELECT, UPDATE (done, failed, failures, place, claimed_until, answer)"},
    "cardsync.operator_action_chain": {WORKER: "SELECT (action_no, hash)"},
    "cardsync.operator_action_head": {WORKER: "SELECT"},
    "cardsync.operator_action_seals": {WORKER: "SELECT, INSERT"},
    "cardsync.operators": {WORKER: "SELECT (operator_id, role, disabled_at)"},
    "registry.cards": {WEB: "SELECT", **SERVICES},
    "registry.active_cards": SERVICES,
    "registry.expiring_cards": SERVICES,
    "registry.agreements": SERVICES,
    "registry.agreements_at_risk": {WEB: "SELECT", **SERVICES},
    "registry.card_tokens": {WEB: "SELECT", CHARGER: "SELECT"},  # the web's for code of the release before
    "registry.agreement_cards": {WEB: "SELECT", **SERVICES},
    "registry.customers": {WEB: "SELECT", **SERVICES},
    "registry.card_changes": {**dict.fromkeys(PROCESSES, "SELECT"), **SERVICES},
    "registry.feed_epochs": {**dict.fromkeys(PROCESSES, "SELECT"), **SERVICES},
    "registry.deletions": {WEB: "SELECT", WORKER: "SELECT", **SERVICES},
}

# A column that counts by itself (GENERATED ... AS IDENTITY) needs no right on its sequence.
_SEQUENCES: Final[Mapping[str, Rights]] = {
    "cardsync.observation_no": dict.fromkeys(PROCESSES, "USAGE"),
    "cardsync.customers_id_seq": NOBODY,
    "cardsync.inquiries_inquiry_id_seq": NOBODY,
    "cardsync.deliveries_delivery_id_seq": NOBODY,
    "cardsync.deletion_steps_step_id_seq": NOBODY,
    "cardsync.unnumbered_changes_change_no_seq": NOBODY,
    "cardsync.walks_walk_id_seq": NOBODY,
    "cardsync.audits_audit_no_seq": NOBODY,
    "cardsync.token_reads_read_no_seq": NOBODY,
}

# A trigger's function runs for every role that changes the table, and no role calls it directly.
_FUNCTIONS: Final[Mapping[str, Rights]] = {
    "cardsync.record_card_change()": NOBODY,
    "cardsync.refuse_change()": NOBODY,
    "cardsync.chain_deletion_step()": NOBODY,
    "cardsync.is_asking_transaction()": NOBODY,
    "cardsync.number_waiting_changes(bigint[])": NOBODY,
    "cardsync.chain_step(bigint)": NOBODY,
    "cardsync.chain_waiting_steps()": NOBODY,
    "cardsync.number_changes()": {WORKER: "EXECUTE"},
    "cardsync.ring(text, text)": {WORKER: "EXECUTE"},
    "cardsync.request_deletion(uuid, text, text, text, bytea, boolean)": dict.fromkeys(PROCESSES, "EXECUTE"),
    "cardsync.request_deletion(uuid, text, text, text, bytea[], boolean, text)": dict.fromkeys(PROCESSES, "EXECUTE"),
    # A web that could write heartbeats would say that a worker is at work. The console's right stands with its others.
    "cardsync.show_at_work(text, text, integer, timestamp with time zone, integer)": {WEB: "EXECUTE"},
    "cardsync.end_at_work(text, text, integer)": {WEB: "EXECUTE"},
    "cardsync.hashed_key(text, text)": NOBODY,
    "cardsync.active_cards_estimate()": {WORKER: "EXECUTE"},
    "cardsync.count_deletion(text)": NOBODY,
    "cardsync.is_known_key(text, text)": {WEB: "EXECUTE"},
    # Whichever process comes first binds the database to its secret key, once.
    "cardsync.bind_secret(bytea)": dict.fromkeys(PROCESSES, "EXECUTE"),
    "cardsync.refuse_undrawn_number()": NOBODY,
    "cardsync.shows_card_number(text)": NOBODY,
    "cardsync.refuse_card_number()": NOBODY,
    "cardsync.end_probation()": NOBODY,
    "cardsync.forget_probation(integer, integer)": {WORKER: "EXECUTE"},
    "cardsync.give_tokens(uuid, uuid[])": {WEB: "EXECUTE"},
    # A view calls it with its reader's rights.
    "cardsync.refuse_encrypted_token(uuid)": {WEB: "EXECUTE", CHARGER: "EXECUTE"},
    "cardsync.note_agreement_link()": NOBODY,
    "cardsync.good_until(date, boolean)": NOBODY,
    "cardsync.note_linked_card()": NOBODY,
    "cardsync.note_card_expiry()": NOBODY,
    "cardsync.fold_repeat(uuid, jsonb)": dict.fromkeys(PROCESSES, "EXECUTE"),
    "cardsync.forget_customers(integer, integer)": {WORKER: "EXECUTE"},
    "cardsync.forget_unlisted_customers(integer, integer)": {WORKER: "EXECUTE"},
    "cardsync.hold_key(text)": NOBODY,
    "cardsync.refuse_a_foreign_inquiry()": NOBODY,
    "cardsync.finish_operation(uuid, text, text)": {WORKER: "EXECUTE"},
    "registry.request_deletion(uuid, text, text)": {DELETER: "EXECUTE"},
}


def _with_the_console(rights: Mapping[str, Rights], console: Mapping[str, str]) -> Mapping[str, Rights]:
    """The rights of everybody else and the console's; an empty text is no right, and a decision too."""
    own = {name: ({CONSOLE: said} if said else {}) for name, said in console.items()}
    return {
        name: {**rights.get(name, {}), **own.get(name, {})} for name in (*rights, *(n for n in own if n not in rights))
    }


RELATIONS: Final = _with_the_console(_RELATIONS, console_rights.RELATIONS)
SEQUENCES: Final = _with_the_console(_SEQUENCES, console_rights.SEQUENCES)
FUNCTIONS: Final = _with_the_console(_FUNCTIONS, console_rights.FUNCTIONS)

KINDS: Final = (("SCHEMA", SCHEMAS), ("TABLE", RELATIONS), ("SEQUENCE", SEQUENCES), ("FUNCTION", FUNCTIONS))


def statements(prefix: str = ROLE_PREFIX) -> Iterator[str]:
    """What grants to each role what stands here, and takes from it and from everybody what does not."""
    roles = ", ".join(named(role, prefix) for role in ROLES)
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        yield f"REVOKE ALL ON ALL {kind} IN SCHEMA {', '.join(SCHEMAS)} FROM PUBLIC, {roles}"
    yield f"REVOKE ALL ON SCHEMA {', '.join(SCHEMAS)} FROM PUBLIC, {roles}"
    for kind, things in KINDS:
        for name, rights in things.items():
            for role, privileges in rights.items():
                yield f"GRANT {privileges} ON {kind} {name} TO {named(role, prefix)}"


def grant_all(connection: Connection, prefix: str = ROLE_PREFIX) -> None:
    """Grant to each role what stands here and take from it what does not, in the caller's transaction.

    For the owner, on a database at the newest migration. Readers see the old or the new rights, never none.
    """
    for statement in statements(prefix):
        connection.exec_driver_sql(statement)
