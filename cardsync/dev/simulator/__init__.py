"""A stand-in for Ottu: its card list, its deletion, its signed webhooks, and shoppers who cause them.

It follows Ottu's documentation, and has a knob for each thing that the documentation leaves open. It proves nothing about Ottu's
behaviour; the conformance test against a real sandbox does.

Reading order: ``knobs`` (what can be set), ``world`` (the true cards; pure), ``payloads`` (Ottu's messages), ``checkout`` (what a
shopper can do), ``shoppers`` (random actions by a seed). Then the outside: ``calls``, ``faults`` and ``desk`` (how every call is
answered), ``app`` and ``control`` (HTTP in), ``handlers`` and ``delivery`` (HTTP out), and ``server`` (``Simulator``, all of it).
"""

from cardsync.dev.simulator.knobs import Knobs
from cardsync.dev.simulator.server import Simulator

__all__ = ["Knobs", "Simulator"]
