"""Texts that the code stores with rows, in English: why something failed, waits, is ignored or is odd. They are translated here.

Rows are written by processes that know no viewer, so what they say is stored once, in English, and found again when it is shown.
``TEXTS`` has every text that a row can hold, as a message of the catalogue; what varies in one stands in it by name (``SLOTS``).
A text may hold another (an erasure's error that of a deletion, which holds Ottu's), so a slot's content is looked up too.

A text that is not here is shown as it was stored, and marked as English: what an older or newer release wrote, codes of Ottu's,
names of errors. So nothing is ever hidden by a translation. ``tests/web/console/test_stored.py`` compares with the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from markupsafe import Markup, escape

from cardsync.core import oddities
from cardsync.web.console.formats import DASH
from cardsync.web.console.words import N_, _

# What may stand in a text, by its name. ``error`` is a stored text of its own; the others are shown as they are.
SLOTS: Final[Mapping[str, str]] = {
    "status": r"\d{3}",
    "number": r"\d+",
    "most": r"\d+",
    "card": r"[0-9a-f-]{36}",
    "environment": r"production|sandbox",
    "codes": r"(?:type|code|field)=\S+(?:, (?:type|code|field)=\S+)*",
    "error": r".+",
}
NESTED: Final = "error"

TEXTS: Final[tuple[str, ...]] = (
    # A call to Ottu, and its answer (``cardsync.ottu``, ``core.trouble``).
    N_("no answer from Ottu: the time is over"),
    N_("no answer from Ottu: the time was over before the call"),
    N_("no answer from Ottu: %(error)s"),
    N_("it does not answer in time"),
    N_("it closed the connection"),
    N_("it does not speak TLS on that port"),
    N_("the TLS handshake failed"),
    N_("its host name is not known (DNS)"),
    N_("it refuses connections: nothing listens on that port"),
    N_("its certificate is for another host name"),
    N_("its certificate has expired"),
    N_("its certificate is not valid yet"),
    N_("its certificate is signed by an authority (CA) that is not known here"),
    N_("the proxy in front of it refuses"),
    N_("the proxy in front of it fails: %(error)s"),
    N_("Ottu refuses our credentials: %(status)s"),
    N_("Ottu asks us to slow down: %(status)s"),
    N_("Ottu failed: %(status)s"),
    N_("Ottu rejects the list: %(status)s"),
    N_("Ottu answered the list with %(status)s"),
    N_("Ottu rejects the deletion: %(status)s"),
    N_("Ottu answered the deletion with %(status)s"),
    N_("Ottu rejects the inquiry: %(status)s"),
    N_("Ottu answered the inquiry with %(status)s"),
    N_("Ottu refuses (%(status)s)"),
    N_("Ottu refuses (%(status)s): %(codes)s"),
    N_("Ottu's answer is larger than %(most)s bytes"),
    N_("Ottu's answer to the inquiry is not JSON in plain UTF-8"),
    N_("Ottu's answer to the inquiry is not a payment"),
    N_("Ottu's answer is about another payment than was asked for"),
    N_("Ottu's list is not JSON in UTF-8"),
    N_("the answer reports an error"),
    N_("the answer is not a list of cards"),
    N_("the list holds a card of another customer"),
    N_("the list holds an error in place of a card"),
    N_("the list filtered by an agreement has more than one card"),
    N_("no entry of the list is a card of this customer"),
    N_("the list has more than %(most)s cards"),
    N_("the list has more than %(most)s pages"),
    N_("the list's pages change their shape"),
    N_("the list's pages change how they count"),
    N_("the list's pages do not go on"),
    N_("the list's pages promise different numbers of cards"),
    N_("the list's pages hold %(number)s cards and promise %(most)s"),
    N_("a page of the list lacks its results or their count"),
    N_("a page of the list promises more than %(most)s cards"),
    N_("the list's next page is not a link"),
    N_("the list's next page does not say where it begins"),
    N_("the list's next page begins at no number"),
    N_("the database refuses what was listed (%(error)s)"),
    N_("%(error)s (other customers' lists work)"),
    # Calls that were not made (``store.calls``).
    N_("calls are paused: throttled by Ottu"),
    N_("calls are paused: Ottu is down"),
    N_("calls are paused: credentials refused"),
    N_("calls are paused: stopped by an operator"),
    N_("calls are slowed down after a 429"),
    N_("the calls of the last 24 hours are used up"),
    N_("hints have caused their share of calls"),
    N_("the process stood still after the call was counted, and made none"),
    # Deletions and erasures.
    N_("Ottu offers no API for cards here (OTTU_CARDS_API=unavailable)"),
    N_("Ottu says that the card is gone, and still lists it"),
    N_("404 to the list, read as an empty one: Ottu said that each card is deleted, and other lists work"),
    N_("held"),
    N_("cancelled"),
    N_("held: a backup was restored"),
    N_("no list: %(error)s"),
    N_("no list in %(environment)s: %(error)s"),
    N_("the deletion of card %(card)s failed: %(error)s"),
    N_("card %(card)s is locked: %(error)s"),
    N_("no reason is known"),
    N_("an unknown card"),
    # Deliveries and endpoints (``cardsync.outgoing``, ``stories.deliver``).
    N_("answered %(status)s"),
    N_("answered 410: it wants no more"),
    N_("no answer in time"),
    N_("no connection"),
    N_("TLS failed"),
    N_("the connection's TLS failed"),
    N_("the connection was cut, or what came is no HTTP"),
    N_("could not be sent"),
    N_("the body was erased"),
    N_("no secret key that is set here reads it"),
    N_("the message could not be made"),
    N_("erased with its person"),
    N_("not delivered in three days, or its endpoint was removed"),
    N_("%(error)s, asked for %(number)s s"),
    # Why an endpoint is disabled (``core.delivery``).
    N_("operator"),
    N_("gone"),
    N_("failing"),
    N_("restored"),
    # Why a notification is ignored (``core.events``).
    N_("unknown kind"),
    N_("operation event"),
    N_("no card"),
    N_("unusable token"),
    N_("unusable customer id"),
    N_("no environment"),
    N_("given_up"),
    # Why a card was removed.
    N_("requested"),
    N_("absent"),
    # Why an operation did not do something (``stories.carry_out``).
    N_("its state does not allow it any more"),
    N_("its body is not kept any more"),
    N_("more requests of this asker were held after the dry run: they wait, and new ones are held still"),
    N_("the operator may not do this any more"),
    N_("what it is about cannot be read"),
    N_("this release knows no such operation"),
    N_("it did not take it: %(error)s"),
    # Why something was refused: by the functions of the database that the console calls, or by what looks at an address.
    N_("this is under way already"),
    N_("it is not under way any more"),
    N_("calls are paused already"),
    N_("no operator has paused calls"),
    N_("there is no such key, or it is revoked already"),
    N_("this is your own name: ask another admin"),
    N_("this is your own name: sign out instead"),
    N_("this form was sent before, and what it made was shown then"),
    N_("the idempotency key was used for another request"),
    N_("there is an endpoint of this name already"),
    N_("there is no endpoint of this name"),
    N_("there is no such kind of endpoint"),
    N_("there is no such customer"),
    N_("there are %(most)s endpoints, and no more are allowed"),
    N_("an address with a query is for the command line: cardsync endpoints add"),
    N_("the URL is not well formed"),
    N_("the URL must be 1 to %(most)s visible ASCII characters"),
    N_("the URL must be https://host[:port]/path, or http:// to this machine or a private network"),
    N_("the URL must carry no credentials and no fragment: messages are signed"),
    N_("the address is none that endpoints have"),
    N_("plain http is refused except to this machine and to private networks: use https"),
    # What is odd in a list (``core.oddities``).
    N_("one token stands in the list twice"),
    N_("a token is a number"),
    N_("a token is a number that may lack leading zeros"),
    N_("a token is longer than 50 characters"),
    N_("a token has blanks around it"),
    N_("a card has no readable token"),
    N_("an entry is not a card"),
    N_("a card lacks required fields"),
    N_("a card does not name its customer"),
    N_("a card names its customer in other letter case"),
    N_("a card names its customer with other blanks or in another Unicode form"),
    N_("the answer is one card, not a list, and other cards are known"),
)
DEPTH_MAX: Final = 6  # texts within texts

_SLOT: Final = re.compile(r"%\((\w+)\)s")
_NAMED: Final = re.compile(r"([A-Z]\w+): (.+)")  # as ``errors.named`` writes an error


def _pattern(text: str) -> re.Pattern[str]:
    parts = _SLOT.split(text)
    return re.compile(
        "".join(f"(?P<{part}>{SLOTS[part]})" if n % 2 else re.escape(part) for n, part in enumerate(parts))
    )


_PLAIN: Final = frozenset(text for text in TEXTS if not _SLOT.search(text))
# Those that begin with a text of their own come last: "the list failed (...)" is one whole.
_PATTERNS: Final = tuple(
    (text, _pattern(text))
    for text in sorted((one for one in TEXTS if one not in _PLAIN), key=lambda one: one.startswith("%("))
)


def said(text: str | None) -> Markup:
    """A stored text in the viewer's language; as it was stored, and marked as English, if it is not one of ``TEXTS``."""
    return escape(DASH) if text is None else (_known(text, DEPTH_MAX) or as_stored(text))


def knows(text: str) -> bool:
    """Whether a stored text is translated, as far as it is ours."""
    return _known(text, DEPTH_MAX) is not None


def as_stored(text: str) -> Markup:
    """A text in English, among texts of any language."""
    return Markup('<bdi lang="en" dir="ltr">{}</bdi>').format(text)


def all_said(texts: Iterable[str]) -> Markup:
    """Several stored texts in one line."""
    return Markup("; ").join(said(one) for one in texts)


def odd(names: Iterable[str]) -> Markup:
    """What is odd in a list, by the names that are stored; one that a newer release noted is shown by its name."""
    meanings: dict[str, str] = {oddity: meaning.said for oddity, meaning in oddities.TABLE.items()}
    return all_said(meanings.get(one, one) for one in names)


def _known(text: str, depth: int) -> Markup | None:
    if text in _PLAIN:
        return escape(_(text))
    if depth == 0:
        return None
    if "; " in text and any(parts := [_known(part, depth - 1) for part in text.split("; ")]):
        return Markup("; ").join(known or as_stored(part) for known, part in zip(parts, text.split("; "), strict=True))
    if (error := _NAMED.fullmatch(text)) is not None and (inner := _known(error[2], depth - 1)) is not None:
        return Markup("{}: {}").format(as_stored(error[1]), inner)
    for template, pattern in _PATTERNS:
        found = pattern.fullmatch(text)
        if found is not None:
            return escape(_(template)) % {name: _slot(name, value, depth) for name, value in found.groupdict().items()}
    return None


def _slot(name: str, value: str, depth: int) -> Markup:
    if value.isdigit():
        return escape(value)
    if name == "environment":
        return escape(_(value))
    return (_known(value, depth - 1) if name == NESTED else None) or as_stored(value)
