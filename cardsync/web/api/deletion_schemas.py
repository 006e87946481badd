"""Requests and answers for deletions and erasures (see ``schemas`` for the rules)."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, StrictBool, WithJsonSchema

from cardsync.core.card_numbers import looks_like_full_number
from cardsync.core.cards import TOKEN_MAX, Token
from cardsync.errors import UnusableCard
from cardsync.store.deletions.requests import REASON_MAX
from cardsync.web.api.enums import DeletionStatus, Environment, ErasureStatus
from cardsync.web.api.schemas import NO_NUL, PAGE_DEFAULT, Answer, CustomerId, Input, Limit, storable


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
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": TOKEN_MAX,
            "description": "Ottu's token of the card. It is neither stored nor logged.",
            **NO_NUL,
        }
    ),
]
REASON_ABOUT: Final = "In your own words, and not the customer's name. What looks like a full card number is refused."
Reason = Annotated[
    str,
    Field(
        max_length=REASON_MAX,
        json_schema_extra=NO_NUL,
    ),
    AfterValidator(storable),
    AfterValidator(_no_number),
]
WhenUnlocked = Annotated[
    StrictBool,
    Field(
        description="If Ottu refuses because the card serves an agreement, go on once another card has taken it over. By default "
        "it does not."
    ),
]


class DeletionByCard(Input):
    """Which card to delete, by our own identifier of it."""

    card_id: Annotated[uuid.UUID, Field(description="Our own identifier of the card.")]
    reason: Annotated[Reason | None, Field(description=REASON_ABOUT)] = None
    when_unlocked: WhenUnlocked = False


class DeletionByToken(Input):
    """Which card to delete, by what Ottu calls it."""

    environment: Environment
    customer_id: CustomerId
    token: HeldToken
    reason: Annotated[Reason | None, Field(description=REASON_ABOUT)] = None
    when_unlocked: WhenUnlocked = False


class ErasureRequest(Input):
    """Which person to erase."""

    customer_id: CustomerId
    reason: Annotated[Reason | None, Field(description=REASON_ABOUT)] = None


class DeletionsQuery(Input):
    """Whose deletions, and which of them."""

    environment: Environment
    customer_id: CustomerId
    status: Annotated[DeletionStatus | None, Field(description="Only those in this state.")] = None
    limit: Limit = PAGE_DEFAULT


class Deletion(Answer):
    """A card's deletion."""

    deletion_id: Annotated[uuid.UUID, Field(description="Our own identifier of the deletion.")]
    card_id: Annotated[uuid.UUID, Field(description="Our own identifier of the card.")]
    environment: Environment
    customer_id: Annotated[str, Field(description="The merchant's own identifier of the customer.")]
    status: DeletionStatus
    requested_by: Annotated[str, Field(description="The name of the API key, or what a caller by SQL said.")]
    reason: Annotated[str | None, Field(description="In the asker's own words.")]
    requested_at: Annotated[dt.datetime, Field(description="When it was asked for.")]
    attempts: Annotated[int, Field(description="Calls made to Ottu to delete it.")]
    next_attempt_at: Annotated[
        dt.datetime | None, Field(description="When Ottu is asked next, to delete or to list; null if it is not.")
    ]
    finished_at: Annotated[dt.datetime | None, Field(description="When it was done, blocked or failed.")]
    error: Annotated[str | None, Field(description="The last trouble, for people, without the token.")]
    code: Annotated[
        str | None,
        Field(
            description="Why it does not go on, for programs: `held` (by the brake on requests, until an operator releases it), "
            "`card_locked` (with `blocked`), `gave_up`, `cancelled` or `cards_api_unavailable` (with `failed`); else null. More "
            "may be added."
        ),
    ]
    when_unlocked: Annotated[bool, Field(description="It goes on by itself once the card is unlocked.")]


class DeletionList(Answer):
    """Deletions of one customer, the newest first."""

    deletions: Annotated[list[Deletion], Field(description="At most `limit` of them.")]


def _hex(value: Any) -> Any:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else value


class DeletionStep(Answer):
    """One step of a deletion; no step can be changed later without breaking the chain of hashes."""

    step_no: Annotated[int, Field(description="Its number among the steps of all deletions.")]
    at: Annotated[dt.datetime, Field(description="When it happened.")]
    step: Annotated[str, Field(description="What happened: asked, called, answered, listed, absent, done, ...")]
    detail: Annotated[
        dict[str, Any], Field(description="Facts of the step, such as who asked, Ottu's status, the list's number.")
    ]
    hash: Annotated[str, Field(description="SHA-256 over the step and the hash before it."), BeforeValidator(_hex)]


class DeletionReceipt(Deletion):
    """A card's deletion with its receipt."""

    steps: Annotated[list[DeletionStep], Field(description="From the request on, the oldest first.")]


class Erasure(Answer):
    """The erasure of a person: all cards of one customer id, in both environments."""

    erasure_id: Annotated[uuid.UUID, Field(description="Our own identifier of the erasure.")]
    customer_id: Annotated[str, Field(description="The merchant's own identifier of the customer.")]
    status: ErasureStatus
    requested_by: Annotated[str, Field(description="The name of the API key, or of the operator.")]
    reason: Annotated[str | None, Field(description="In the asker's own words.")]
    requested_at: Annotated[dt.datetime, Field(description="When it was asked for.")]
    finished_at: Annotated[dt.datetime | None, Field(description="When it was done; null until then.")]
    error: Annotated[
        str | None, Field(description="Which cards are locked or could not be deleted, or why no list can be had.")
    ]
    deletions: Annotated[list[Deletion], Field(description="The deletions that it waits for.")]


INPUTS: Final = (DeletionByCard, DeletionByToken, ErasureRequest)
ANSWERS: Final = (Deletion, DeletionList, DeletionReceipt, DeletionStep, Erasure)
