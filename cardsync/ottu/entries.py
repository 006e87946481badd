"""One entry of a list: is it a card, whose card is it, and how far can it be believed?

Pure. What an entry must have stands in ``FIELDS``; what an odd entry takes from the list's meaning stands in ``core.oddities``.
Two kinds of entry fail the whole call (``InvalidAnswer``): a card of another customer, since we asked for one customer and cannot
tell whose list this is; and an error in place of a card, since Ottu then failed to make the list.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cardsync.core.cards import TOKEN_MAX, ListedCard, Token, read_facts, read_token, unsaid_facts
from cardsync.core.fields import as_text, read_flag
from cardsync.core.oddities import Oddity
from cardsync.errors import InvalidAnswer

# What a field is there for. "which": it names the card. "whose": it names the customer. The two signs tell a card from any other
# object, an authentication answer for instance. "itself": it says no more than its own fact.
Role = Literal["which", "whose", "gateway sign", "card sign", "itself"]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a card object: its role, and what an entry that lacks it is still good for."""

    role: Role
    without_it: str


# The source of every line: Ottu's OpenAPI description, schema ``Card``, whose ``required`` holds these thirteen names. It allows
# ``null`` for ``brand``, ``number`` and ``name_on_card``: there the name counts as present. Ottu's documentation adds that most
# fields can be absent from the ``token`` object of a notification, so a list that lacks some is plausible. Nothing is removed
# because of an entry that lacks one of the first five.
FIELDS: Final[Mapping[str, Field]] = {
    "token": Field("which", "it may be any card"),
    "customer_id": Field("whose", "it confirms a card that is known, and adds none: whose it is was not said"),
    "pg_code": Field("gateway sign", "it is a card if it names this customer and has the other sign"),
    "number": Field("card sign", "`brand` is as good"),
    "brand": Field("card sign", "`number` is as good"),
    "agreements": Field("itself", "the agreements that are known stay"),
    "cvv_required": Field("itself", "what is known stays"),
    "expiry_month": Field("itself", "what is known stays"),
    "expiry_year": Field("itself", "what is known stays"),
    "is_expired": Field("itself", "what is known stays"),
    "is_preferred": Field("itself", "what is known stays"),
    "name_on_card": Field("itself", "what is known stays"),
    "pg_name": Field("itself", "what is known stays; `pg` is as good"),
}
_SIGNS: Final[Mapping[str, Role]] = {name: f.role for name, f in FIELDS.items() if f.role.endswith("sign")}
BOTH_SIGNS: Final[frozenset[Role]] = frozenset(_SIGNS.values())

# Tokens have 16 digits in practice. A number of as many digits has lost no leading zero.
USUAL_TOKEN_DIGITS: Final = 16

# Names under which APIs report an error in a body that has status 200, without case and separators. Ottu documents ``detail``,
# ``error`` and errors by field; the others are those of common frameworks.
_ERROR_NAMES: Final = frozenset(
    {
        *("detail", "details", "message", "messages", "msg", "reason", "reasons", "traceback", "stacktrace"),
        *("err", "errno", "errmsg", "fault", "faults", "faultcode", "faultstring"),
    }
)
_ERROR_PARTS: Final = ("error", "exception", "fail", "problem")
_SUCCESS_NAMES: Final = frozenset({"success", "issuccess", "successful", "succeeded", "ok", "isok"})
_STATUS_NAMES: Final = frozenset({"status", "statuscode", "statustext", "statusmessage", "code"})
_STATUS_PARTS: Final = ("httpstatus", "httpcode", "responsecode", "responsestatus")
# Of a page these may hold anything; only a word that names a failure counts.
_OUTCOME_NAMES: Final = frozenset({"result", "state", "outcome", "response"})
_GOOD_WORDS: Final = frozenset({"ok", "success", "successful", "succeeded"})
_BAD_PARTS: Final = ("err", "fail", "denied", "unauth", "forbid", "reject", "invalid", "unavailable")

Owner = Literal["exact", "spelling", "case", "absent", "other"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What was read of one entry. ``is_card``: it shows that the answer is a list of cards, though an odd one perhaps."""

    card: ListedCard | None
    oddities: tuple[Oddity, ...]
    is_card: bool


def read_entry(item: object, customer_id: str) -> Entry:
    """Read one entry of the list of this customer. Raises ``InvalidAnswer`` for another customer's card, and for an error."""
    if not isinstance(item, dict):
        return Entry(None, ("not_a_card",), is_card=False)
    owner = owner_of(item.get("customer_id"), customer_id)
    if owner == "other":
        raise InvalidAnswer("the list holds a card of another customer")
    signs = {role for name, role in _SIGNS.items() if _is_there(item, name)}
    if not signs and has_error(item):
        raise InvalidAnswer("the list holds an error in place of a card")
    token, odd_token = _token(item.get("token"))
    is_card = signs == BOTH_SIGNS or (bool(signs) and owner != "absent")
    if not is_card:
        return Entry(_confirmation(token), ("not_a_card",), is_card=False)
    oddities = [odd_token] if odd_token is not None else []
    if owner != "exact":
        oddities.append(_OF_OWNER[owner])
    if signs != BOTH_SIGNS:
        oddities.append("incomplete")
    if token is None:
        return Entry(None, tuple(oddities), is_card=True)
    facts = read_facts(item)
    card = ListedCard(token, facts, unsaid_facts(item, facts), only_if_known=owner in ("absent", "case"))
    return Entry(card, tuple(oddities), is_card=True)


_OF_OWNER: Final[Mapping[Owner, Oddity]] = {
    "absent": "owner_absent",
    "case": "owner_case",
    "spelling": "owner_spelling",
}


def owner_of(named: object, customer_id: str) -> Owner:
    """Tell how an entry names the customer that was asked for."""
    if named is None or named == "":
        return "absent"
    text = as_text(named)
    if text is None:
        return "other"
    if text == customer_id:
        return "exact"
    if _spelt(text) == _spelt(customer_id):
        return "spelling"
    return "case" if _spelt(text).casefold() == _spelt(customer_id).casefold() else "other"


def _spelt(customer_id: str) -> str:
    """The id without blanks at its ends, in Unicode's normal form C."""
    return unicodedata.normalize("NFC", customer_id).strip()


def has_error(body: Mapping[str, object], *, is_card: bool = False) -> bool:
    """Tell whether an object says that the call failed, although its status was 200. Empty values and "success" say nothing.

    A card may have a status of its own, "active" for instance, so of a card only a status that names a failure counts. So it is
    for the objects beside a list (``meta``, ``response``), which are looked at too.
    """
    beside = () if is_card else (value for value in body.values() if isinstance(value, dict))
    return _has_report(body, is_card) or any(_has_report(one, True) for one in beside)


def _has_report(body: Mapping[str, object], is_card: bool) -> bool:
    return any(_reports(_plain(name), value, is_card) for name, value in body.items() if value is not None)


def _plain(name: str) -> str:
    """A name without case and separators: ``statusCode``, ``status_code`` and ``Status-Code`` are one."""
    return "".join(c for c in name.lower() if c.isalnum())


def _reports(name: str, value: object, is_card: bool) -> bool:
    if name in _SUCCESS_NAMES:
        return read_flag(value) is not True and not _is_good(value)
    if not _says_something(value):
        return False
    if name in _STATUS_NAMES or any(part in name for part in _STATUS_PARTS):
        return _is_bad_status(str(value).strip().lower(), is_card)
    if name in _ERROR_NAMES or any(part in name for part in _ERROR_PARTS):
        return value is not False and value != 0  # no error, or the number of errors
    is_word = isinstance(value, str) and name in _OUTCOME_NAMES and not is_card
    return is_word and any(part in str(value).lower() for part in _BAD_PARTS)


def _is_bad_status(status: str, is_card: bool) -> bool:
    if status.isdecimal():
        return not is_card and int(status[:9]) != 0 and not 200 <= int(status[:9]) <= 299
    return any(part in status for part in _BAD_PARTS) if is_card else True


def _says_something(value: object) -> bool:
    """Whether a value is more than empty or good; a truth value does say something."""
    return isinstance(value, bool) or (
        value not in (None, [], {}) and not (isinstance(value, str) and _is_empty(value))
    )


def _is_empty(text: str) -> bool:
    return not text.strip() or _is_good(text)


def _is_good(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in _GOOD_WORDS


def _is_there(item: Mapping[str, object], name: str) -> bool:
    """Whether a sign is there: of a gateway a text, of a card also ``null``, which Ottu allows for it. A container is neither."""
    text = as_text(item.get(name))
    if _SIGNS[name] == "gateway sign":
        return bool(text and text.strip())
    return text is not None or (name in item and item[name] is None)


def _token(value: object) -> tuple[Token | None, Oddity | None]:
    token = read_token(value)
    if isinstance(value, str):
        if token is not None:
            return token, None if token.reveal() == value else "padded_token"
        return None, "long_token" if len(value.strip().strip("\x00").strip()) > TOKEN_MAX else "unreadable_token"
    if token is None:
        return None, "unreadable_token"
    return token, "number_token" if len(token.reveal()) >= USUAL_TOKEN_DIGITS else "short_number_token"


def _confirmation(token: Token | None) -> ListedCard | None:
    """The entry as a card without facts: enough that the card is not taken for absent."""
    if token is None:
        return None
    facts = read_facts({})
    return ListedCard(token, facts, unsaid_facts({}, facts), only_if_known=True)
