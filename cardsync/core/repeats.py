"""Repeated signatures: what a hint may cost whose signature came in another body before.

Ottu's standard scheme signs neither the customer nor anything of the card. Whoever holds one genuine body can send it again
beside any customer and card, as often as they like; Ottu too may send several events with the same signed fields. The two
cannot be told apart, so a *repeat* is believed as little as any hint, and costs less:

- The customer is looked at, but no sooner than ``APART_SECONDS`` after the last look was asked for, and a look that is due
  anyway is enough. However many repeats there are, they cause one call a minute for a customer.
- Such a look has a lane of its own, with a tenth of the calls (``core.allowance``): no flood takes what fresh hints need.
- The first list that was asked for after a repeat answers it. A fresh hint's card is waited for, since lists may lag; an altered
  one would cost six calls each.
- One signature makes few unknown customers known in an hour. Beyond that the hint fails: an operator sees it, and can replay it.

The first hint with a signature is fresh, whoever sent it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Final

APART_SECONDS: Final = 60.0
# An honest repeat is about the customer of the first hint, who is known by then: one stranger is rare already.
STRANGERS_A_SIGNATURE: Final = 20
STRANGERS_SECONDS: Final = 3_600.0

# Since when a repeat's card is awaited: so long ago that the next list settles it, in the words of every version of this program.
NO_PATIENCE: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def signature_hash(signature: str) -> bytes:
    """Return the 32 bytes by which a signature is known again. Of a hash nobody makes a body that would be vouched for."""
    return hashlib.sha256(signature.encode()).digest()
