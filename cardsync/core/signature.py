"""Who vouches for a payload: the key and the scheme whose HMAC it carries, or ``InvalidSignature``.

The HMAC itself is ottu-py's, over the values as they were sent (``core.events.parse`` keeps a number's
literal text). Rules: every key and both schemes are always computed and compared in constant time, so that
the time taken tells nothing about the keys; a well-formed signature is refused in the same words for every
reason, so that the answer tells nothing either.

What must be signed for the vouching to mean something:

- *Something.* Over none of the signed fields the message is empty and its HMAC one constant of the key: seen
  once, it would open any body for ever. A payload whose digest is that of an empty one is refused, per
  scheme. This asks ottu-py itself rather than a list of fields of ours, and stays right when ottu-py signs
  more.
- *Under this scheme.* The standard scheme puts nothing between name and value. A genuine subscription message
  (``amount=9\\nresult=success\\ntoken.token=...``) is therefore also the standard message of
  ``{"amount": "=9\\nresult=success\\ntoken.token=..."}``, beside which any token and any customer could stand
  unsigned. Such a message can only begin with a first signed value that begins with ``=``, which no amount or
  currency does: refused.
- *No more than that.* Asking for certain fields (a result, a reference) was weighed and rejected: whoever
  holds one genuine standard body can replay it beside another customer and card whatever it signs, operation
  events leave some of the fields out, and a refusal loses a hint for good, since Ottu never sends it again.
  What a vouched body says of a card is a hint; the list is believed.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ottu.utils.webhooks import calculate_hmac_signature, calculate_subscription_hmac_signature

from cardsync.errors import InvalidSignature

Scheme = Literal["standard", "subscription"]

# The fields of the standard scheme in the order in which it joins them (ottu-py 1.10, ``utils/webhooks.py``,
# a private name there). Repeated for the one question of which comes first; a test holds it to ottu-py's.
STANDARD_FIELDS: Final = (
    *("amount", "currency_code"),
    *(f"customer_address_{part}" for part in ("city", "country", "line1", "line2", "postal_code", "state")),
    *("customer_email", "customer_first_name", "customer_last_name", "customer_phone"),
    *("gateway_account", "gateway_name", "order_no", "reference_number", "result", "state"),
)

_SCHEMES: Final[tuple[tuple[Scheme, Callable[..., str]], ...]] = (
    ("standard", calculate_hmac_signature),
    ("subscription", calculate_subscription_hmac_signature),
)
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")  # lower case, as ``hexdigest`` writes it and Ottu sends it
_NO_DIGEST: Final = ""  # never equal to 64 characters


@dataclass(frozen=True, slots=True)
class Vouched:
    """Which of the configured keys made the signature, by its place, and under which scheme."""

    key_index: int
    scheme: Scheme


def verify(payload: Mapping[str, object], keys: Sequence[str]) -> Vouched:
    """Return the first key and scheme that vouch for ``payload``; raise ``InvalidSignature`` if none does.

    Cost: two HMACs a key over at most the body; nothing else is raised, whatever the payload holds.
    """
    presented = payload.get("signature")
    # The exact type: a JSON number is kept as a subclass of str, and is no signature.
    if type(presented) is not str or _HEX_SHA256.fullmatch(presented) is None:
        raise InvalidSignature("the signature is missing or malformed")
    sent = dict(payload)  # ottu-py takes a dict
    found: Vouched | None = None
    for index, key in enumerate(keys):
        over_nothing = _digest(calculate_hmac_signature, {}, key)  # the same under both schemes
        for scheme, calculate in _SCHEMES:
            expected = _digest(calculate, sent, key)
            made_by_key = hmac.compare_digest(expected, presented)
            signs_something = not hmac.compare_digest(expected, over_nothing)
            # An empty key is no secret: anybody's signature would do.
            if made_by_key and signs_something and key and found is None:
                found = Vouched(index, scheme)
    if found is None or (found.scheme == "standard" and _may_be_another_schemes(sent)):
        raise InvalidSignature("no configured key vouches for the payload")
    return found


def _digest(calculate: Callable[..., str], payload: dict[str, Any], key: str) -> str:
    """ottu-py's HMAC, or ``_NO_DIGEST`` where there is none.

    ``ValueError``: a lone surrogate (a legal JSON escape) has no UTF-8, an integer of thousands of digits no
    text. ``RecursionError``: an object nested past what can be written out. What cannot be signed was not
    signed by Ottu.
    """
    try:
        return calculate(payload=payload, hmac_key=key)
    except (ValueError, RecursionError):
        return _NO_DIGEST


def _may_be_another_schemes(payload: Mapping[str, object]) -> bool:
    """Tell whether the standard message of ``payload`` could have been signed as a subscription message."""
    values = (payload.get(name) for name in STANDARD_FIELDS)
    first = next((value for value in values if value is not None and value != ""), None)
    return isinstance(first, str) and first.startswith("=")
