"""Requests and answers about the feed of changes."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, Field, WrapValidator

from cardsync.web.api.enums import Cause, Change, Environment
from cardsync.web.api.schemas import Answer, Input

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000
WAIT_MAX: Final = 30  # seconds: below what proxies commonly give an answer
SEQ_MAX: Final = 2**63 - 1


def _digits(value: Any) -> Any:
    """A whole number as plain digits, as ``schemas`` reads them."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 19):
        raise ValueError("must be a whole number")
    return value


class ChangesQuery(Input):
    """From where on, how many, and whether to wait."""

    after: Annotated[
        Annotated[int, Field(ge=0, le=SEQ_MAX)],
        BeforeValidator(_digits),
        Field(
            description="The number of the last change that the caller has: 0, or the last `next_after`.", examples=[0]
        ),
    ]
    epoch: Annotated[
        Annotated[int, Field(ge=1, le=SEQ_MAX)] | None,
        BeforeValidator(_digits),
        Field(
            description="The epoch that `after` is of. In another one the answer is 410: a backup was restored, and changes that "
            "the caller read may be gone.",
            examples=[1],
        ),
    ] = None
    limit: Annotated[
        Annotated[int, Field(ge=1, le=LIMIT_MAX)],
        BeforeValidator(_digits),
        Field(description="How many changes at most in one answer.", examples=[LIMIT_DEFAULT]),
    ] = LIMIT_DEFAULT
    wait: Annotated[
        Annotated[int, Field(ge=0, le=WAIT_MAX)],
        BeforeValidator(_digits),
        Field(description="If there is no change, how many seconds to wait for one.", examples=[30]),
    ] = 0


def _as_it_is(value: Any, _: object) -> Any:
    """A row of the feed is shown as it is, also with a word of another release."""
    return value


class CardChange(Answer):
    """One change of a card, as in the view `registry.card_changes`."""

    seq: Annotated[
        int, Field(description="Its number: without gaps within an epoch, in commit order.", examples=[18423])
    ]
    at: Annotated[dt.datetime, Field(description="When it was committed, nearly.", examples=["2026-11-25T10:20:30Z"])]
    card_id: Annotated[
        uuid.UUID,
        Field(description="Our own identifier of the card.", examples=["0f0c3a52-9a53-4d4e-8a7e-5f1f4c9f3d21"]),
    ]
    environment: Environment
    customer_id: Annotated[str, Field(description="The merchant's own identifier.", examples=["customer-1"])]
    change: Annotated[Change, WrapValidator(_as_it_is)]
    fields: Annotated[
        list[str],
        Field(
            description="Which columns of `registry.cards` are others. Empty with `added` (all of it is new) and `expired`. With "
            "`expiring` it says how near the last good day is, in days: `60`, `30` or `7`.",
            examples=[["is_preferred"]],
        ),
    ]
    cause: Annotated[Cause, WrapValidator(_as_it_is)]
    epoch: Annotated[int, Field(description="Its epoch: a restored backup begins another one.", examples=[1])]


class ChangePage(Answer):
    """Changes in order; without a gap after the number that was asked for."""

    changes: Annotated[list[CardChange], Field(description="In order of `seq`.")]
    next_after: Annotated[int, Field(description="What to ask after next.", examples=[18423])]
    head: Annotated[int, Field(description="The number of the newest change.", examples=[18423])]
    epoch: Annotated[int, Field(description="The epoch that counts now. Keep it with `next_after`.", examples=[1])]


ANSWERS: Final[tuple[type[BaseModel], ...]] = (CardChange, ChangePage)
