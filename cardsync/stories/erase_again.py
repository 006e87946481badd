"""``erase_again``: do erasures again that a restored backup forgot, by the receipts that were kept outside of it.

One person in one transaction, so that an interrupted run goes on where it stopped: an erasure that the database knows as done is
passed over. Nothing is deleted at Ottu. An erasure that was still under way when its receipt was written is only named: whether
it was done since, and the person came back, is for an operator to know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Engine

from cardsync.core.erasure_receipt import Receipt
from cardsync.store.deletions import erasures_again as store
from cardsync.store.ops import operator


@dataclass(slots=True)
class Again:
    """What became of the receipts: how many persons were erased again, how many were known as done, and those still open."""

    erased: int = 0
    known: int = 0
    open: list[Receipt] = field(default_factory=list)


def erase_again(engine: Engine, receipts: Iterable[Receipt]) -> Again:
    """Do these erasures again, one after another; a person who has come back since keeps what is newer."""
    done = Again()
    for receipt in receipts:
        with engine.begin() as connection:
            status = store.status(connection, receipt)
            if status == "done":
                done.known += 1
            elif receipt.finished_at is None:
                done.open.append(receipt)
            else:
                operator.let_sweep_ring(connection, store.do_again(connection, receipt))
                done.erased += 1
    return done
