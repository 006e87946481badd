"""All HTTP to endpoints of the merchant's: a request in, how it ended out. ``cardsync.ottu`` is for Ottu alone.

The other side is not trusted with our time or memory (``sender``), and an address is checked before it is used (``addresses``).
"""

from cardsync.outgoing.sender import Ended, Message, Sender

__all__ = ["Ended", "Message", "Sender"]
