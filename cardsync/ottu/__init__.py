"""All HTTP to Ottu, on Ottu's own SDK; a failed or odd answer raises, it never returns an empty list.

The promise: a ``CardList`` is one believable, unfiltered list of one customer's cards; it names what was odd about its entries.
Any other answer, of Ottu, of a proxy or of the network, raises one of ``errors``' ``Transient`` or ``Terminal``. No text of these
holds a token, a key or a URL.

``client`` makes the calls, ``handler`` is the SDK's extension point (quiet, bounded, headers kept), ``transport`` ends a call on
time. ``statuses``, ``listing``, ``entries`` and ``inquiry`` say, purely, what an answer means.
"""

from cardsync.ottu.client import CardList, DeleteAnswer, OttuClient, silence_libraries
from cardsync.ottu.inquiry import Inquired

__all__ = ["CardList", "DeleteAnswer", "Inquired", "OttuClient", "silence_libraries"]
