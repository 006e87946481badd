"""The named lists of values of the API: one schema each, so that a generated client has one type for all places.

A release may add a value to `Change` and `Cause`; the others are closed. Codes of problems are no list, since each release may
add some, and a client must not fail on a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypeAliasType

from cardsync.core import cards, deletion, feed
from cardsync.store import looks
from cardsync.store.deletions import erasures


def _each(means: Mapping[str, str]) -> str:
    """The values of a list, each with what it means."""
    return " ".join(f"`{value}`: {meaning}." for value, meaning in means.items())


Environment = TypeAliasType(
    "Environment", Annotated[cards.Environment, Field(description="Ottu's `type`.", examples=["production"])]
)
CardStatus = TypeAliasType(
    "CardStatus",
    Annotated[
        cards.CardStatus,
        Field(
            description="`unconfirmed`: a webhook named it, no list has shown it yet. `active`: a list showed it. `deleting`: a "
            "deletion is under way. `removed`: a list proved that it is gone.",
            examples=["active"],
        ),
    ],
)
RemovedBecause = TypeAliasType(
    "RemovedBecause",
    Annotated[
        Literal["requested", "absent"],
        Field(
            description="`requested`: by a deletion of ours. `absent`: Ottu's list lacked it.", examples=["requested"]
        ),
    ],
)
DeletionStatus = TypeAliasType(
    "DeletionStatus",
    Annotated[
        deletion.Status,
        Field(
            description="`pending`: Ottu is not called yet. `in_progress`: Ottu was called, and a list has to prove it. "
            "`done`: a list without the card, asked for after Ottu was told, has proved it. `blocked`: Ottu refuses, the card is "
            "active again. `failed`: given up, the card is active again; an operator can replay it.",
            examples=["done"],
        ),
    ],
)
ErasureStatus = TypeAliasType(
    "ErasureStatus",
    Annotated[
        erasures.Status,
        Field(
            description="`pending`: under way. `done`: every card is gone, which lists of both environments prove, and names and "
            "masked numbers are removed. `blocked`: Ottu refuses a card; it goes on by itself once that is unlocked. `failed`: a "
            "deletion was given up; it goes on once an operator replays that.",
            examples=["done"],
        ),
    ],
)
ReconciliationStatus = TypeAliasType(
    "ReconciliationStatus",
    Annotated[
        looks.LookStatus,
        Field(
            description="`queued`: Ottu is asked as soon as the budget of calls allows. `in_progress`: it is being asked. "
            "`done`: a list that was asked for after this request is believed.",
            examples=["queued"],
        ),
    ],
)
Change = TypeAliasType(
    "Change",
    Annotated[
        feed.Change,
        Field(
            description=f"What happened to the card. {_each(feed.CHANGE_MEANS)} A release may add values: skip one that you do "
            "not know.",
            examples=["added"],
        ),
    ],
)
Cause = TypeAliasType(
    "Cause",
    Annotated[
        feed.Cause,
        Field(
            description=f"Why we know of the change. {_each(feed.CAUSE_MEANS)} A release may add values.",
            examples=["hint"],
        ),
    ],
)
RiskReason = TypeAliasType(
    "RiskReason",
    Annotated[
        Literal["no_card", "expired", "expiring", "deleting"],
        Field(
            description="`no_card`: no active card. `expired`: the card's last day is over. `expiring`: it is within 30 days. "
            "`deleting`: a deletion of the card is under way.",
            examples=["expiring"],
        ),
    ],
)
