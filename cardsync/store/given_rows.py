"""Notifications as the one parameter of a statement, however many they are: JSON, read by ``json_to_recordset``.

The same prepared statement serves one hint and a hundred, and there is one value to send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from cardsync.core.events import event_id_text
from cardsync.core.spool_format import WaitingRow, as_json

# The rows of the parameter ``:rows`` with their place among them. ``payment`` stands for the payment that a body is about, as a
# hash: the session makes it one that cannot be guessed. It is NULL for a body that lacks a part of it.
GIVEN: Final = """
    SELECT decode(body_hash, 'hex') AS hash, event_id, least(received_at, statement_timestamp()) AS received_at, status, kind,
        ignored_because, environment, customer_id, session_id, reference_number, order_no, result, state, payment_type,
        agreement_id, scheme, key_id, decode(signature_hash, 'hex') AS signature_hash, token, facts,
        coalesce(vouched, false) AS vouched,
        CASE WHEN as_of IS NOT NULL THEN least(as_of, statement_timestamp()) END AS as_of, place,
        substring(sha256(convert_to(environment || ' ' || session_id || ' ' || customer_id, 'UTF8')) FOR 16) AS payment
    FROM ROWS FROM (json_to_recordset(cast(:rows AS json)) AS (
        event_id uuid, received_at timestamptz, body_hash text, status text, kind text, ignored_because text,
        environment text, customer_id text, session_id text, reference_number text, order_no text, result text, state text,
        payment_type text, agreement_id text, scheme text, key_id text, signature_hash text, token text, facts jsonb,
        vouched boolean, as_of timestamptz
    )) WITH ORDINALITY AS row (
        event_id, received_at, body_hash, status, kind, ignored_because, environment, customer_id, session_id,
        reference_number, order_no, result, state, payment_type, agreement_id, scheme, key_id, signature_hash, token, facts,
        vouched, as_of, place
    )
"""


def as_parameter(rows: Sequence[WaitingRow]) -> str:
    """The value of ``:rows``."""
    return orjson.dumps([{"event_id": event_id_text(row.body_hash), **as_json(row)} for row in rows]).decode()
