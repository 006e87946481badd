"""An erasure's receipt, as a line of a file that is kept outside of the database: who was erased, when, and a seal over it.

A backup that is restored brings erased persons back. The receipts of erasures that it does not know take them away again. A line
is one JSON object; its seal is HMAC-SHA256 over the same object without the seal, with a key that is made from
``CARDSYNC_SECRET_KEY``: cards are taken away on a receipt's word, so no one else may write one. A receipt names the customer by
the merchant's own id, as the database does after an erasure, and holds nothing else of the person.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cardsync.core.cards import is_customer_id
from cardsync.errors import MalformedBody

LINE_MAX_BYTES: Final = 4_096
NAME_MAX: Final = 100  # characters of `requested_by`, as the table has it
_LABEL: Final = b"cardsync erasure receipts 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """An erasure; one that was not done when the file was written has no ``finished_at``."""

    erasure_id: uuid.UUID
    customer_id: str
    requested_by: str
    requested_at: dt.datetime
    finished_at: dt.datetime | None


def line(receipt: Receipt, secret: bytes) -> str:
    """The receipt as a line, without its end, sealed with a key of this secret."""
    facts = _facts(receipt)
    return json.dumps({**facts, "seal": _seal(facts, secret)}, ensure_ascii=False)


def read(text: str | bytes, secrets: Sequence[bytes]) -> Receipt:
    """Read a line. Raises ``MalformedBody`` for one that is no receipt, or that none of these secrets sealed."""
    try:
        content: Any = json.loads(text) if len(text) <= LINE_MAX_BYTES else None
        finished = content["finished_at"]
        receipt = Receipt(
            erasure_id=uuid.UUID(content["erasure_id"]),
            customer_id=content["customer_id"],
            requested_by=content["requested_by"],
            requested_at=_moment(content["requested_at"]),
            finished_at=None if finished is None else _moment(finished),
        )
        seal = str(content["seal"])
        facts = _facts(receipt)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise MalformedBody("not a receipt of an erasure") from None
    if not any(hmac.compare_digest(_seal(facts, secret).encode(), seal.encode()) for secret in secrets):
        raise MalformedBody("not sealed with a secret key that is set here, or changed since")
    if not is_customer_id(receipt.customer_id) or not 1 <= len(receipt.requested_by) <= NAME_MAX:
        raise MalformedBody("not a receipt of an erasure")
    return receipt


def _moment(text: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a moment without an offset")
    return moment.astimezone(dt.UTC)


def _facts(receipt: Receipt) -> dict[str, Any]:
    return {
        "erasure_id": str(receipt.erasure_id),
        "customer_id": str(receipt.customer_id),
        "requested_by": str(receipt.requested_by),
        "requested_at": receipt.requested_at.astimezone(dt.UTC).isoformat(),
        "finished_at": None if receipt.finished_at is None else receipt.finished_at.astimezone(dt.UTC).isoformat(),
    }


def _seal(facts: dict[str, Any], secret: bytes) -> str:
    key = hmac.digest(secret, _LABEL, hashlib.sha256)
    return hmac.digest(key, json.dumps(facts, sort_keys=True).encode(), hashlib.sha256).hex()
