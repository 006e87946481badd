"""What goes in and comes out where cards are deleted and persons erased (see ``schemas`` for the rules)."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, StrictBool, WithJsonSchema

from cardsync.core.cards import TOKEN_MAX, Environment, Token, looks_like_full_number
from cardsync.errors import UnusableCard
from cardsync.store.deletions import REASON_MAX, PublicStatus
from cardsync.store.erasures import Status
from cardsync.web.schemas import NO_NUL, Answer, CustomerId, Input, storable


def _token(value: Any) -> Token:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    try:
        return Token(value)
    except UnusableCard as error:
        raise ValueError(str(error)) from None


def _no_number(text: str) -> str:
    if looks_like_full_number(text):
        raise ValueError("looks like a full card number")
    return text


HeldToken = Annotated[
    Token,
    PlainValidator(_token),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": TOKEN_MAX, **NO_NUL}),
]
Reason = Annotated[
    str,
    Field(
        max_length=REASON_MAX,
        description="In your own words, and not the customer's name. What looks like a full card number is refused.",
        json_schema_extra=NO_NUL,
    ),
    AfterValidator(storable),
    AfterValidator(_no_number),
]
WhenUnlocked = Annotated[
    StrictBool,
    Field(description="If Ottu refuses since the card serves an agreement: go on once another card has taken it over."),
]


class DeletionByCard(Input):
    """Which card to delete, by our own identifier of it."""

    card_id: uuid.UUID
    reason: Reason | None = None
    when_unlocked: WhenUnlocked = False


class DeletionByToken(Input):
    """Which card to delete, by what Ottu calls it."""

    environment: Environment
    customer_id: CustomerId
    token: HeldToken
    reason: Reason | None = None
    when_unlocked: WhenUnlocked = False


class ErasureRequest(Input):
    """Whom to erase."""

    customer_id: CustomerId
    reason: Reason | None = None


class Deletion(Answer):
    """A card's deletion."""

    deletion_id: uuid.UUID
    card_id: uuid.UUID
    environment: Environment
    customer_id: str
    status: Annotated[
        PublicStatus,
        Field(
            description="`done`: a list without the card, asked for after Ottu was told, has proved it. `blocked`: Ottu "
            "refuses, the card is active again. `failed`: given up, the card is active again; an operator can replay it."
        ),
    ]
    requested_by: str
    reason: str | None
    requested_at: dt.datetime
    attempts: Annotated[int, Field(description="Calls made to Ottu to delete it.")]
    next_attempt_at: dt.datetime | None
    finished_at: dt.datetime | None
    error: Annotated[str | None, Field(description="The last trouble, without the token.")]
    when_unlocked: bool


def _hex(value: Any) -> Any:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else value


class DeletionStep(Answer):
    """One step of a deletion; no step can be changed later without breaking the chain of hashes."""

    step_no: int
    at: dt.datetime
    step: Annotated[str, Field(description="What happened: asked, called, answered, listed, absent, done, ...")]
    detail: Annotated[
        dict[str, Any], Field(description="Who asked, Ottu's status, the list's number: whatever belongs to the step.")
    ]
    hash: Annotated[str, Field(description="SHA-256 over the step and the hash before it."), BeforeValidator(_hex)]


class DeletionReceipt(Deletion):
    """A card's deletion with its receipt."""

    steps: list[DeletionStep]


class Erasure(Answer):
    """The erasure of a person: all cards of one customer id, in both environments."""

    erasure_id: uuid.UUID
    customer_id: str
    status: Annotated[
        Status,
        Field(
            description="`done`: every card is gone, which lists of both environments prove, and names and masked numbers "
            "are removed. `blocked`: Ottu refuses a card; it goes on by itself once that is unlocked. `failed`: a "
            "deletion was given up; it goes on once an operator replays that."
        ),
    ]
    requested_by: str
    reason: str | None
    requested_at: dt.datetime
    finished_at: dt.datetime | None
    error: Annotated[str | None, Field(description="Which cards are locked, or could not be deleted.")]
    deletions: list[Deletion]


INPUTS: Final = (DeletionByCard, DeletionByToken, ErasureRequest)
ANSWERS: Final = (Deletion, DeletionReceipt, DeletionStep, Erasure)
