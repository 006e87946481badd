"""Requests and answers of the API, as pydantic models: the checks, the answers and the OpenAPI schemas at once.

Identifiers are checked as ``core.cards`` defines them, so that a value that the database cannot hold is refused here.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from cardsync.core import cards
from cardsync.core.cards import AGREEMENT_ID_MAX, CARD_STATUSES, CUSTOMER_ID_MAX
from cardsync.core.fields import TEXT_MAX, is_storable
from cardsync.web.api.enums import CardStatus, Environment, RemovedBecause
from cardsync.web.problems import FIELD_CODES

MAX_AGE_MAX: Final = 366 * 86_400  # seconds; a year is as good as any


def storable(text: str) -> str:
    """Accept text that PostgreSQL can store."""
    if not is_storable(text):
        raise ValueError("must not hold NUL or lone surrogates")
    return text


PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000


def digits(value: Any) -> Any:
    """A whole number as plain digits: ``1e3``, ``+1`` and ``1_000`` are more likely mistakes than wishes."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise ValueError("must be a whole number")
    return value


NO_NUL: Final = {"pattern": "^[^\\u0000]*$"}
CustomerId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=CUSTOMER_ID_MAX,
        description="The merchant's own identifier of the customer, exactly as Ottu has it.",
        json_schema_extra=NO_NUL,
    ),
    AfterValidator(storable),
]
AgreementId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=AGREEMENT_ID_MAX,
        description="The merchant's own identifier of the agreement, exactly as Ottu has it.",
        json_schema_extra=NO_NUL,
    ),
    AfterValidator(storable),
]
PgCode = Annotated[str, Field(min_length=1, max_length=TEXT_MAX, json_schema_extra=NO_NUL), AfterValidator(storable)]


Limit = Annotated[
    Annotated[int, Field(ge=1, le=PAGE_MAX)],
    BeforeValidator(digits),
    Field(description="How many at most in one answer.", examples=[PAGE_DEFAULT]),
]


class Input(BaseModel):
    """A request. Unknown fields are refused: a misspelt ``max_age`` must not count as a missing one."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class CardsQuery(Input):
    """Which customer's cards, and which of them."""

    environment: Environment
    customer_id: CustomerId
    status: Annotated[
        tuple[CardStatus | Literal["all"], ...],
        Field(max_length=10, description="May be given more than once; `all` for every card ever seen."),
    ] = ("active",)
    pg_code: Annotated[PgCode | None, Field(description="Only cards of this payment gateway.")] = None
    max_age: Annotated[
        Annotated[int, Field(ge=0, le=MAX_AGE_MAX), BeforeValidator(digits)] | None,
        Field(
            description="In seconds. If the customer was last reconciled longer ago, that is done first, within a few "
            "seconds; if it cannot be, what is known is returned with `stale: true`. With `pg_code`, and for active cards alone, "
            "Ottu may be asked for this gateway's cards alone; `reconciled_at` is then when that was."
        ),
    ] = None

    @property
    def only_gateway(self) -> str | None:
        """The gateway, if a list filtered by it can serve this query: such a list says nothing of cards that are not active."""
        return self.pg_code if self.statuses() == ("active",) else None

    def statuses(self) -> tuple[cards.CardStatus, ...]:
        """The wanted states."""
        if "all" in self.status:
            return CARD_STATUSES
        return tuple(s for s in self.status if s != "all")


class AgreementQuery(Input):
    """Which agreement."""

    environment: Environment
    agreement_id: AgreementId
    customer_id: CustomerId | None = None
    max_age: Annotated[
        Annotated[int, Field(ge=0, le=MAX_AGE_MAX), BeforeValidator(digits)] | None,
        Field(
            description="In seconds. If what is known is older, or two cards claim the agreement, Ottu is asked about it first, "
            "within a few seconds; if it cannot be, what is known is returned with `stale: true`. An agreement that is not known "
            "yet is asked about if `customer_id` is given.",
            examples=[60],
        ),
    ] = None


class Answer(BaseModel):
    """An answer."""

    model_config = ConfigDict(from_attributes=True, hide_input_in_errors=True)


class Card(Answer):
    """A card, as the registry shows it."""

    card_id: Annotated[uuid.UUID, Field(description="Our own identifier of the card.")]
    environment: Environment
    customer_id: Annotated[str, Field(description="The merchant's own identifier of the customer.")]
    status: CardStatus
    pg_code: Annotated[str | None, Field(description="The code of the payment gateway that keeps the card.")]
    pg_name: Annotated[str | None, Field(description="The name of that gateway.")]
    brand: Annotated[str | None, Field(description="Such as `VISA`; null if Ottu does not say.")]
    number: Annotated[str | None, Field(description="Masked.")]
    last4: Annotated[str | None, Field(description="The last four digits that the mask shows.")]
    expiry_month: Annotated[str | None, Field(description="Two digits.")]
    expiry_year: Annotated[str | None, Field(description="Two digits, as Ottu has it.")]
    expires_on: Annotated[dt.date | None, Field(description="The last day on which the card is good.")]
    is_expired: Annotated[bool, Field(description="That day is over, or Ottu says so.")]
    is_preferred: Annotated[bool, Field(description="The customer prefers this card.")]
    cvv_required: Annotated[bool | None, Field(description="The payer must enter the CVV; null if Ottu does not say.")]
    auto_debit: Annotated[bool, Field(description="Can be charged without the payer: `cvv_required` is false.")]
    agreements: Annotated[list[str], Field(description="The ids of the agreements that Ottu names with the card.")]
    name_on_card: Annotated[str | None, Field(description="As Ottu has it.")]
    first_seen_at: Annotated[dt.datetime, Field(description="When it was first heard of.")]
    confirmed_at: Annotated[dt.datetime | None, Field(description="When the list that showed it was asked for.")]
    removed_at: Annotated[dt.datetime | None, Field(description="When it was removed; null while it is not.")]
    removed_because: Annotated[RemovedBecause | None, Field(description="Why it was removed; null while it is not.")]
    token: Annotated[
        str | None,
        Field(description="Only with scope `tokens:read`; null unless the card is active."),
    ] = None


class AgreementCard(Card):
    """The card that an agreement is charged to."""

    stale: Annotated[
        bool | None,
        Field(description="Whether `max_age` could not be met; only there with `max_age`.", examples=[False]),
    ] = None


class CardList(Answer):
    """A customer's cards, preferred ones first, then the newest."""

    cards: Annotated[list[Card], Field(description="At most 1,000 of them.")]
    reconciled_at: Annotated[
        dt.datetime | None,
        Field(description="When the list that is believed was asked for; null if there is none."),
    ]
    stale: Annotated[bool, Field(description="Whether `max_age` could not be met.")]


class Receipt(Answer):
    """The answer to a notification that is durable."""

    status: Annotated[
        Literal["accepted", "duplicate", "ignored"],
        Field(description="`duplicate`: the same body came before. `ignored`: authentic, and of no interest."),
    ]
    event_id: Annotated[uuid.UUID, Field(description="Our own identifier of the notification.")]


class Liveness(Answer):
    """The process answers."""

    status: Annotated[Literal["alive"], Field(description="There is no other value.")]


class Readiness(Answer):
    """What works. `checks` has `ok` or what is wrong, for `database`, `migrations`, `secret_key`, `broker`, `ottu`."""

    status: Annotated[
        Literal["ready", "degraded", "not ready"],
        Field(description="`degraded`: notifications are taken, and something else does not work."),
    ]
    checks: Annotated[dict[str, str], Field(description="By part: `ok`, or what is wrong.")]


class FieldError(Answer):
    """What is wrong with one field; values are never repeated."""

    field: Annotated[
        str, Field(description="The field's name; empty if it is the whole body or query, or not to be told.")
    ]
    code: Annotated[
        str, Field(description=f"For programs: {', '.join(f'`{c.code}`' for c in FIELD_CODES)}. More may be added.")
    ]
    message: Annotated[str, Field(description="For people, in English.")]


class ProblemDetails(Answer):
    """An error (RFC 9457), of the application or of the proxy in front of it. Decide by `code`."""

    type: Annotated[
        str, Field(description="The path of a page that explains this kind of problem: `/problems/<code>`.")
    ]
    code: Annotated[
        str, Field(description="The kind of problem, for programs. A code stays for ever; a new release may add some.")
    ]
    title: Annotated[str, Field(description="The kind of problem, for people.")]
    status: Annotated[int, Field(description="The HTTP status again.")]
    detail: Annotated[str, Field(description="What happened this time, for people.")]
    request_id: Annotated[
        str | None,
        Field(
            description="Finds the request in the log. Not there where the log has no line of it: of what anybody can send at "
            "will (an unknown path, no valid key, a wrong signature) a flood is counted, and not logged one by one."
        ),
    ] = None
    scope: Annotated[str | None, Field(description="With `insufficient_scope`: the scope that the key lacks.")] = None
    epoch: Annotated[int | None, Field(description="With `feed_restored`: the epoch that counts now.")] = None
    after: Annotated[int | None, Field(description="With `feed_restored`: what to ask after in that epoch.")] = None
    errors: Annotated[
        list[FieldError] | None, Field(description="With status 422: what is wrong with which field.")
    ] = None
