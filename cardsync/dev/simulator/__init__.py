"""A stand-in for Ottu: its card list, its deletion, its signed webhooks, and shoppers who cause them.

It follows what Ottu documents and offers a knob for everything that Ottu leaves open. It is no proof of how
Ottu behaves: the conformance test, pointed at a real sandbox, is.

Reading order: ``knobs`` (what can be set), ``world`` (what is true; pure), ``payloads`` (what Ottu says),
``checkout`` (what shoppers do), ``shoppers`` (who do it at random, by a seed), then the outside: ``app`` and
``control`` (HTTP in), ``delivery`` (HTTP out) and ``server`` (``Simulator``, all of it together).
"""

from cardsync.dev.simulator.knobs import Knobs
from cardsync.dev.simulator.server import Simulator

__all__ = ["Knobs", "Simulator"]
