"""Repeats: hints whose signature came in another body before, and the limits on what they may cost.

Ottu's standard scheme signs neither the customer nor anything of the card. Anybody who holds one genuine body can send it again
beside any customer and card, as often as they like; Ottu too may send several events with the same signed fields. The two cannot
be told apart, so a *repeat* is believed as little as any hint, and costs less:

- It is known when it is stored, by the hash of its signature, which is kept for years. It waits apart, behind every fresh hint,
  and the number of rows is bounded (``store.repeats``).
- The customer is looked at, but no sooner than ``APART_SECONDS`` after the last look was asked for, and a look that is due
  anyway is enough. However many repeats there are, they cause one call a minute for a customer.
- Such a look has a lane of its own, with a tenth of the calls (``core.call_budget``): no flood takes what fresh hints need. The
  customer stays in the line for routine looks meanwhile (``store.customers.IN_LINE``).
- The first list that was asked for after a repeat answers it. A fresh hint's card is waited for, since lists may lag; an altered
  one would cost six calls each.
- One signature makes few unknown customers known in an hour. Beyond that the hint is given up, and counted.

The first hint with a signature is fresh, from any sender. A body without a card counts as the first one too: a guest's failed
payment is signed like any other, and its holder could otherwise name any customer and card with it, once, years later. One case
is let off: a body that names a card, where the first one had none and is about the same payment (environment, session and
customer), is fresh, once. So Ottu may tell of the card later. A stranger who sends the genuine body ahead of Ottu, without its
card and with another customer, makes a repeat of the genuine one: it is looked at within about a minute. That takes the body
before Ottu has delivered it, which is a man in the middle, who could drop it just as well.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Final

APART_SECONDS: Final = 60.0
# An honest repeat is about the customer of the first hint, who is known by then: a single stranger is rare already.
STRANGERS_A_SIGNATURE: Final = 20
STRANGERS_SECONDS: Final = 3_600.0

# New rows of a signature's repeats: twice the strangers, so that known customers have places beside them.
ROWS_A_SIGNATURE: Final = 40
ROWS_SECONDS: Final = 3_600.0

# The time since which a repeat's card is awaited: so long ago that the next list settles it, for every version of this program.
NO_PATIENCE: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def signature_hash(signature: str) -> bytes:
    """Return the 32 bytes by which a signature is recognised. A body that would verify cannot be made from the hash."""
    return hashlib.sha256(signature.encode()).digest()
