"""All HTTP to Ottu, on Ottu's own SDK; a failed or odd answer raises, it never returns an empty list.

The promise: a ``CardList`` is one complete, believable, unfiltered list of one customer's cards. Whatever
else Ottu, its proxies or the network say raises one of ``errors``' ``Transient`` or ``Terminal``, and no text
of those holds a token, a key or a URL.

``client`` makes the calls, ``handler`` is the SDK's extension point (quiet, bounded, headers kept),
``transport`` ends a call on time, ``statuses`` and ``listing`` say, purely, what an answer means.
"""

from cardsync.ottu.client import CardList, DeleteAnswer, OttuClient, silence_libraries

__all__ = ["CardList", "DeleteAnswer", "OttuClient", "silence_libraries"]
