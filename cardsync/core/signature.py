"""Who vouches for a payload: the key and the scheme whose HMAC it carries, or ``InvalidSignature``.

The HMAC is the one that ottu-py computes, over the values as they were sent (``core.events.parse`` keeps a number's literal
text): a message of names and values, built here once for a body and not once for each key. A test holds every message to
ottu-py's own functions. A well-formed signature is refused in the same words for every reason, and only after every key was tried
under both schemes, so that neither the answer nor its time tells anything about the keys. Digests are compared in constant time.

What must be signed for the vouching to mean something:

- *Something.* Over none of the signed fields the message is empty and its HMAC one constant of the key: seen once, it would open
  any body for ever. An empty message vouches for nothing.
- *Plain values.* A signed value is a text, a number (kept as its text) or a boolean. Ottu sends no list and no object there.
  Python's text of one is slow to write (a second for a megabyte), so that it is refused before anything is computed.
- *Under this scheme.* The standard scheme puts nothing between name and value. A genuine subscription message
  (``amount=9\\nresult=success\\ntoken.token=...``) is therefore also the standard message of
  ``{"amount": "=9\\nresult=success\\ntoken.token=..."}``, beside which any token and any customer could stand unsigned. Such a
  message can only begin with a first signed value that begins with ``=``, which no amount or currency does: refused.
- *In one reading.* A line break stands between the paths of the subscription scheme. With one in a value, the value may hold what
  looks like the next paths, and a genuine payload with fields taken out or put in has the same message. So a control character in
  a signed value is refused under both schemes, with one exception: the payer's own fields (``customer_*``: a form has an address
  of several lines) may hold line breaks and tabs, unless a line of them begins as a signed path does (``result=``). Then a
  message has exactly one payload. Refusing every line break was rejected: Ottu never sends a refused notification again. The
  characters U+0080 to U+009F are not counted as control characters: they divide nothing, and badly converted names hold them.
- *No more than that.* Asking for certain fields (a result, a reference) was weighed and rejected: anybody who holds one genuine
  standard body can replay it beside another customer and card whatever it signs, operation events leave some of the fields out,
  and a refusal loses a hint for good. What a vouched body says of a card is a hint; the list is believed.

Where there is no list (KSA) more is asked of a body before it is believed alone (``core.believe``). Two facts for that are
known only here, while the payload is at hand: which environment the key is bound to (``core.webhook_keys``), and whether the
signature covers whose card it is (``signs_card``).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from cardsync.core.cards import Environment
from cardsync.errors import InvalidSignature

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

Scheme = Literal["standard", "subscription"]
SCHEMES: Final[tuple[Scheme, ...]] = ("standard", "subscription")
Source = Literal["standard", "subscription", "inquiry"]  # of a hint: a signed body, or the inquiry endpoint's answer

# The fields of the standard scheme in the order in which it joins them (ottu-py 1.10, ``utils/webhooks.py``,
# a private name there). Repeated for the one question of which comes first; a test holds it to ottu-py's.
STANDARD_FIELDS: Final = (
    *("amount", "currency_code"),
    *(f"customer_address_{part}" for part in ("city", "country", "line1", "line2", "postal_code", "state")),
    *("customer_email", "customer_first_name", "customer_last_name", "customer_phone"),
    *("gateway_account", "gateway_name", "order_no", "reference_number", "result", "state"),
)

# The paths that the subscription scheme signs, in its order (the same module's private name; the same test).
SUBSCRIPTION_PATHS: Final = tuple(
    sorted(
        (
            *STANDARD_FIELDS,
            *("agreement.id", "extra.autopay.subscription_id", "extra.merchant_id", "payment_type", "session_id"),
            *("token.customer_id", "token.pg_code", "token.token"),
        )
    )
)

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")  # lower case, as ``hexdigest`` writes it and Ottu sends it
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_IN_FREE_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # all but tab, line feed, carriage return
_LIKE_A_PATH = re.compile(rf"\n(?:{'|'.join(re.escape(path) for path in SUBSCRIPTION_PATHS)})=")
_FREE_TEXT: Final = "customer_"  # how the payer's own fields begin
_BLOCK_BYTES: Final = 64  # of SHA-256
_KEYS: Final = 64  # remembered; an operator has a few at once
_NOT_VOUCHED_FOR: Final = "no configured key vouches for the payload"


@dataclass(frozen=True, slots=True)
class Vouched:
    """Which of the configured keys made the signature, by its place, and under which scheme."""

    key_index: int
    scheme: Scheme


def verify(payload: Mapping[str, object], keys: Sequence[str]) -> Vouched:
    """Return the first key that vouches for ``payload``, under the first scheme; raise ``InvalidSignature`` if none does.

    Cost: one HMAC a key over at most the body, and for what is refused or of the subscription scheme another one. Nothing else is
    raised, whatever the payload holds.
    """
    presented = payload.get("signature")
    # The exact type: a JSON number is kept as a subclass of str, and is no signature.
    if type(presented) is not str or _HEX_SHA256.fullmatch(presented) is None:
        raise InvalidSignature("the signature is missing or malformed")
    for scheme, build in _MESSAGES:
        message = build(payload)
        index = None if message is None else _maker(message, presented, keys)
        if index is not None:
            return Vouched(index, scheme)
    raise InvalidSignature(_NOT_VOUCHED_FOR)


def _maker(message: bytes, presented: str, keys: Sequence[str]) -> int | None:
    """The place of the first key whose HMAC of the message is ``presented``; an empty key is no secret, and makes none."""
    for index, key in enumerate(keys):
        made = _hmac(key, message)
        if hmac.compare_digest(made, presented) and key:
            return index
    return None


def _hmac(key: str, message: bytes) -> str:
    """HMAC-SHA256 in hexadecimal (RFC 2104). The key's blocks are hashed once: ``hmac.digest`` takes ten times as long."""
    start, end = _keyed(key)
    inner, outer = start.copy(), end.copy()
    inner.update(message)
    outer.update(inner.digest())
    return outer.hexdigest()


@lru_cache(maxsize=_KEYS)
def _keyed(key: str) -> tuple[Hash, Hash]:
    """The two hashes of an HMAC, each after its block: the key with zeros behind it, every byte XORed with a constant."""
    secret = key.encode()
    block = (secret if len(secret) <= _BLOCK_BYTES else hashlib.sha256(secret).digest()).ljust(_BLOCK_BYTES, b"\0")
    return hashlib.sha256(bytes(b ^ 0x36 for b in block)), hashlib.sha256(bytes(b ^ 0x5C for b in block))


def standard_message(payload: Mapping[str, object]) -> bytes | None:
    """Return what the standard scheme signs of ``payload``; ``None`` if it can vouch for nothing."""
    said = [(name, v) for name in STANDARD_FIELDS if (v := payload.get(name)) is not None and v != ""]
    if said and isinstance(first := said[0][1], str) and first.startswith("="):
        return None
    if not _is_one_printable_line(said) and not all(_is_signable(name, value) for name, value in said):
        return None
    return _encoded("".join([f"{name}{value}" for name, value in said]))


def subscription_message(payload: Mapping[str, object]) -> bytes | None:
    """Return what the subscription scheme signs of ``payload``; ``None`` if it can vouch for nothing."""
    found = ((path, _at(payload, path) if "." in path else payload.get(path)) for path in SUBSCRIPTION_PATHS)
    said = [(path, value) for path, value in found if value is not None and value != ""]
    if not _is_one_printable_line(said):
        for path, value in said:
            if not _is_signable(path, value) or (isinstance(value, str) and _LIKE_A_PATH.search(value)):
                return None
    return _encoded("\n".join([f"{path}={value}" for path, value in said]))


_MESSAGES: Final[tuple[tuple[Scheme, Callable[[Mapping[str, object]], bytes | None]], ...]] = (
    ("standard", standard_message),
    ("subscription", subscription_message),
)


def _is_one_printable_line(said: Sequence[tuple[str, object]]) -> bool:
    """Whether all values are texts without any control character, as almost always: then none has to be looked at alone."""
    try:
        return "".join([value for _, value in said]).isprintable()  # type: ignore[misc]  # no text among them: TypeError
    except TypeError:
        return False


def _is_signable(path: str, value: object) -> bool:
    """Whether a signed value is one that Ottu sends: no container; no control character but line breaks of free text.

    Numbers are texts here (``core.events.parse``): one of a million digits is never converted.
    """
    if isinstance(value, str):
        return not (_CONTROL_IN_FREE_TEXT if path.startswith(_FREE_TEXT) else _CONTROL).search(value)
    return isinstance(value, bool)


def _encoded(message: str) -> bytes | None:
    """The message's bytes; ``None`` for an empty one, and for a lone surrogate (a legal JSON escape), which has no UTF-8."""
    try:
        return message.encode() or None
    except UnicodeEncodeError:
        return None


def require_environment(bound_to: Environment | None, said: Environment | None) -> None:
    """Raise ``InvalidSignature`` if a key that is bound to one environment made the signature of a body of the other.

    No scheme signs the environment. So a bound key whose body says the other one did not vouch for that body, and the body is
    refused as one with a wrong signature is, in the same words. To take it as an unbound hint was rejected: an operator binds a
    key to say that nothing else can be true of it, and Ottu signs each environment with its instance's key.
    A body that says no environment contradicts nothing; it is of no interest in any case.
    """
    if bound_to is not None and said is not None and said != bound_to:
        raise InvalidSignature(_NOT_VOUCHED_FOR)


def signs_card(payload: Mapping[str, object], vouched: Vouched) -> bool:
    """Tell whether the signature covers whose card the payload names: customer, token, gateway and agreement.

    Only under the subscription scheme, whose message ``verify`` takes in one reading alone, and only where
    ``token.customer_id`` is said: a customer's id at the top level is not signed.
    """
    if vouched.scheme != "subscription":
        return False
    return all(isinstance(v := _at(payload, path), str) and v != "" for path in ("token.customer_id", "token.token"))


def _at(payload: Mapping[str, object], path: str) -> object:
    """The value at a dotted path, as ottu-py finds it; ``None`` where there is none."""
    current: object = payload
    for part in path.split("."):
        if not isinstance(current, dict) or part not in current:
            return None
        current = current[part]
    return current
