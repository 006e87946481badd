"""What the console's login may do, beside the rights of everybody else (``store.access.privileges``).

It reads no token, no fingerprint, no key, no body and no hash that opens anything, and it writes no table. All that it changes
goes through functions that run as the owner and are given a session's secret: each finds who acts, and refuses a role that is too
low. An empty text says that an object belongs to the console and that not even its login may use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RELATIONS: Final[Mapping[str, str]] = {
    "cardsync.alembic_version": "SELECT",
    "cardsync.events": (
        "SELECT (event_id, evidence_no, received_at, status, kind, ignored_because, environment, customer_id, "
        "session_id, reference_number, order_no, result, state, payment_type, agreement_id, scheme, key_id, repeated, "
        "card_id, attempts, due_at, settled_at, last_error, shed_at, vouched, as_of)"
    ),
    "cardsync.customers": "SELECT",
    "cardsync.cards": "SELECT (card_id, customer, status, life, first_seen_at, awaited_no, awaited_at, cause)",
    "cardsync.agreements": "SELECT",
    "cardsync.card_changes": "SELECT",
    "cardsync.feed_head": "SELECT",
    "cardsync.feed_epochs": "SELECT",
    "cardsync.observations": "SELECT",
    "cardsync.audits": "SELECT",
    "cardsync.call_minutes": "SELECT",
    "cardsync.gate": (
        "SELECT (paused_until, paused_because, swept_at, brake_engaged_at, pace_per_second, pace_since, "
        "pace_next_at, breaker_reason, breaker_opened_at, breaker_shut_until, breaker_probing, "
        "breaker_failing, breaker_odd, breaker_failed_at, inquiries_paused_until, "
        "operator_paused_at, operator_paused_by, operator_paused_why)"
    ),
    "cardsync.schedule": "SELECT",
    "cardsync.brake": "SELECT",
    "cardsync.brake_confirmations": "SELECT",
    "cardsync.api_keys": (
        "SELECT (key_id, name, scopes, created_at, revoked_at, owner, prefix, expires_at, replaced_at, "
        "calls_per_day, requests_per_second, held_at)"
    ),
    "cardsync.key_use": "SELECT",
    "cardsync.deletions": "SELECT",
    "cardsync.deletion_askers": "SELECT",
    "cardsync.deletion_brake": "SELECT",
    "cardsync.deletion_steps": "SELECT",
    "cardsync.receipt_chain": "SELECT",
    "cardsync.receipt_head": "SELECT",
    "cardsync.receipt_seals": "SELECT",
    "cardsync.erasures": "SELECT",
    "cardsync.erasure_deletions": "SELECT",
    "cardsync.imports": "SELECT",
    "cardsync.walks": "SELECT",
    "cardsync.operators": (
        "SELECT (operator_id, name, role, issuer, created_at, disabled_at, link_expires_at, signed_in_at)"
    ),
    "cardsync.console_sessions": "SELECT (operator_id, began_at, expires_at, ended_at)",
    "cardsync.operator_actions": "SELECT",
    "cardsync.operator_action_chain": "SELECT",
    "cardsync.operator_action_head": "SELECT",
    "cardsync.operator_action_seals": "SELECT",
    "cardsync.operations": "SELECT",
    "cardsync.endpoints": (
        "SELECT (endpoint_id, name, url, kind, status, disabled_because, disabled_at, created_at, failing_since, opened_at, "
        "shut_until, delivered_at, last_error, cursor_seq, attempts, due_at)"
    ),
    "cardsync.deliveries": "SELECT",
    "registry.cards": "SELECT",
    "registry.card_changes": "SELECT",
    "registry.deletions": "SELECT",
}

SEQUENCES: Final[Mapping[str, str]] = {"cardsync.operator_actions_action_id_seq": ""}

FUNCTIONS: Final[Mapping[str, str]] = {
    "cardsync.operation_role(text)": "",
    "cardsync.operation_wants(text)": "",
    "cardsync.console_ask_operation(bytea, text, text, jsonb, bigint, text, text, uuid)": "EXECUTE",
    "cardsync.console_cancel_operation(bytea, uuid, text, uuid)": "EXECUTE",
    "cardsync.console_invite_operator(bytea, text, text, bytea, text, uuid)": "EXECUTE",
    "cardsync.console_disable_operator(bytea, text, text, uuid)": "EXECUTE",
    "cardsync.console_create_key(bytea, text, bytea, text, text[], integer, text, uuid)": "EXECUTE",
    "cardsync.console_revoke_key(bytea, uuid, text, uuid)": "EXECUTE",
    "cardsync.open_session_by_issuer(text, text, text, text, bytea, text)": "EXECUTE",
    "cardsync.show_at_work(text, text, integer, timestamp with time zone, integer)": "EXECUTE",
    "cardsync.end_at_work(text, text, integer)": "EXECUTE",
    "cardsync.body_is_kept(uuid)": "EXECUTE",
    "cardsync.console_operator(bytea)": "EXECUTE",
    "cardsync.open_console_session(bytea, bytea, text)": "EXECUTE",
    "cardsync.close_console_session(bytea, boolean, text)": "EXECUTE",
    "cardsync.console_look_now(bytea, bigint, text, uuid)": "EXECUTE",
    "cardsync.console_request_deletion(bytea, uuid, text, boolean, text, uuid)": "EXECUTE",
    "cardsync.console_pause_calls(bytea, text, text, uuid)": "EXECUTE",
    "cardsync.console_resume_calls(bytea, text, text, uuid)": "EXECUTE",
    "cardsync.acting_operator(bytea, text, interval)": "",
    "cardsync.note_operator_action(uuid, text, text, text, text, jsonb, jsonb, text, text, uuid)": "",
    "cardsync.was_carried_out(uuid, uuid, text, text)": "",
    "cardsync.end_sessions_of(uuid)": "",
    "cardsync.invite_operator(text, text, bytea, uuid, text, text, uuid)": "",
    "cardsync.disable_operator(text, uuid, text, text, uuid)": "",
    "cardsync.operator_action_said(bigint, cardsync.operator_actions)": "EXECUTE",
    "cardsync.chain_operator_action()": "",
}
