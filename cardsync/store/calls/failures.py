"""What a failed call means: whose trouble the error is, judged by what other customers' calls met lately.

One way leads from an error to what follows from it (``told``): the row of ``core.trouble``, and the word that the gate hears.
Only here is a refusal of our credentials told from a refusal of one customer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from cardsync.core.circuit_breaker import CUSTOMERS_IN_A_ROW
from cardsync.core.trouble import TABLE, Call, Trouble, kind_of
from cardsync.errors import Transient
from cardsync.store import customers
from cardsync.store.calls import gate

# A refusal while other lists work is the one customer's trouble, and must not stop everybody.
LISTS_WORK_SECONDS: Final = 60.0
# A key that was revoked is refused to every customer from one call to the next, while lists of a few seconds ago worked. As with
# an Ottu that does not answer, three different customers in a row, and no list that works between them, are no chance.
REFUSED_IN_A_ROW: Final = CUSTOMERS_IN_A_ROW


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended that raised: whose trouble it is, Ottu's wish for a pause, and what it began or ended for all calls."""

    trouble: Trouble
    retry_after_seconds: float | None
    turn: gate.Turn | None


def told(connection: Connection, error: Exception, *, call: Call, who: int) -> Ended:
    """Note that a call about customer ``who`` ended with this error: the one way from an error to what follows from it.

    Raises ``LookupError`` for an error of ours that no call ends with.
    """
    trouble = trouble_of(connection, error, call=call, who=who)
    retry_after = error.retry_after_seconds if isinstance(error, Transient) else None
    turn = gate.heard(connection, trouble.word, who=who, retry_after_seconds=retry_after)
    return Ended(trouble, retry_after, turn)


def trouble_of(connection: Connection, error: Exception, *, call: Call, who: int) -> Trouble:
    """Return the row of ``core.trouble`` for this end of a call; the gate does not hear of it.

    Refusals are judged one after the other, under the gate's lock, which is held until the transaction ends. Of three judged at
    once none would see the two others: each would be its customer's own, and would stay so.
    """
    kind = kind_of(error, call)
    if kind == "credentials":
        gate.lock(connection)
    if kind == "credentials" and (
        customers.is_noted(connection, who, TABLE["refused_alone"].note)
        or (
            lists_work(connection, within_seconds=LISTS_WORK_SECONDS)
            and refused_since_a_list_worked(connection, but=who) < REFUSED_IN_A_ROW - 1
        )
    ):
        kind = kind_of(error, call, alone=True)
    return TABLE[kind]


_LISTS_WORK = text("""
    SELECT EXISTS (
        SELECT 1 FROM cardsync.observations
        WHERE asked_at > statement_timestamp() - make_interval(secs => :seconds) AND outcome IN ('changed', 'unchanged')
    )
""")


def lists_work(connection: Connection, *, within_seconds: float) -> bool:
    """Tell whether any customer's list was believed lately: then a refusal is that customer's, not our credentials'."""
    work: bool = connection.execute(_LISTS_WORK, {"seconds": within_seconds}).scalar_one()
    return work


# The first refusal of a customer that was as well as all others: from its second one on it is a known case. Bounded by the index
# on the time, and by the lists of a minute.
_REFUSED_IN_A_ROW = text("""
    SELECT count(DISTINCT refused.customer)
    FROM cardsync.observations AS refused
    WHERE refused.asked_at > statement_timestamp() - make_interval(secs => :seconds)
      AND refused.outcome = 'CredentialsRefused' AND refused.customer <> :but
      AND refused.asked_at > coalesce((
          SELECT max(asked_at) FROM cardsync.observations
          WHERE asked_at > statement_timestamp() - make_interval(secs => :seconds) AND outcome IN ('changed', 'unchanged')
      ), '-infinity')
      AND NOT EXISTS (
          SELECT 1 FROM cardsync.observations AS before
          WHERE before.customer = refused.customer AND before.outcome = 'CredentialsRefused'
            AND before.asked_at < statement_timestamp() - make_interval(secs => :seconds)
      )
""")


def refused_since_a_list_worked(connection: Connection, *, but: int) -> int:
    """Count the customers that Ottu began to refuse within a minute, since the last list that worked; ``but`` not among them."""
    parameters = {"seconds": LISTS_WORK_SECONDS, "but": but}
    counted: int = connection.execute(_REFUSED_IN_A_ROW, parameters).scalar_one()
    return counted


_DOUBTED = text("""
    SELECT EXISTS (
        SELECT 1 FROM cardsync.observations
        WHERE asked_at > statement_timestamp() - make_interval(secs => :seconds) AND outcome = 'CredentialsRefused'
    )
""")


def credentials_doubted(connection: Connection) -> bool:
    """Tell whether a list was refused within a minute, and none worked: then a deletion's 403 is hardly the card's own."""
    refused: bool = connection.execute(_DOUBTED, {"seconds": LISTS_WORK_SECONDS}).scalar_one()
    return refused and not lists_work(connection, within_seconds=LISTS_WORK_SECONDS)
