"""What goes in and comes out of the API, as pydantic models: the checks, the answers and the OpenAPI schemas at once.

Identifiers are checked as ``core.cards`` defines them, so that nothing the database cannot hold gets past the door.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from cardsync.core.cards import AGREEMENT_ID_MAX, CUSTOMER_ID_MAX, TEXT_MAX, Environment, is_storable

Status = Literal["unconfirmed", "active", "deleting", "removed"]
MAX_AGE_MAX: Final = 366 * 86_400  # seconds; a year is as good as any


def storable(text: str) -> str:
    """Let pass what PostgreSQL can hold."""
    if not is_storable(text):
        raise ValueError("must not hold NUL or lone surrogates")
    return text


def _digits(value: Any) -> Any:
    """A whole number as plain digits: ``1e3``, ``+1`` and ``1_000`` are more likely mistakes than wishes."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise ValueError("must be a whole number of seconds")
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
    Field(min_length=1, max_length=AGREEMENT_ID_MAX, json_schema_extra=NO_NUL),
    AfterValidator(storable),
]
PgCode = Annotated[str, Field(min_length=1, max_length=TEXT_MAX, json_schema_extra=NO_NUL), AfterValidator(storable)]


class Input(BaseModel):
    """What is sent. Unknown fields are refused: a misspelt ``max_age`` must not read as its absence."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class CardsQuery(Input):
    """Whose cards, and which."""

    environment: Annotated[Environment, Field(description="Ottu's `type`.")]
    customer_id: CustomerId
    status: Annotated[
        tuple[Status | Literal["all"], ...],
        Field(max_length=10, description="May be given more than once; `all` for every card ever seen."),
    ] = ("active",)
    pg_code: Annotated[PgCode | None, Field(description="Only cards of this payment gateway.")] = None
    max_age: Annotated[
        Annotated[int, Field(ge=0, le=MAX_AGE_MAX), BeforeValidator(_digits)] | None,
        Field(
            description="In seconds. If the customer was last reconciled longer ago, that is done first, within a few "
            "seconds; if it cannot be, what is known is returned with `stale: true`."
        ),
    ] = None

    def statuses(self) -> tuple[Status, ...]:
        """The states that are wanted."""
        if "all" in self.status:
            return ("unconfirmed", "active", "deleting", "removed")
        return tuple(s for s in self.status if s != "all")


class AgreementQuery(Input):
    """Which agreement."""

    environment: Annotated[Environment, Field(description="Ottu's `type`.")]
    agreement_id: AgreementId


class ReconciliationRequest(Input):
    """Whom to look at."""

    environment: Environment
    customer_id: CustomerId


class Answer(BaseModel):
    """What is answered."""

    model_config = ConfigDict(from_attributes=True, hide_input_in_errors=True)


class Card(Answer):
    """A card, as the registry shows it."""

    card_id: Annotated[uuid.UUID, Field(description="Our own identifier of the card.")]
    environment: Environment
    customer_id: str
    status: Annotated[
        Status,
        Field(
            description="`unconfirmed`: a webhook named it, no list has shown it yet. `deleting`: a deletion is under way."
        ),
    ]
    pg_code: str | None
    pg_name: str | None
    brand: str | None
    number: Annotated[str | None, Field(description="Masked.")]
    last4: str | None
    expiry_month: str | None
    expiry_year: str | None
    expires_on: Annotated[dt.date | None, Field(description="The last day on which the card is good.")]
    is_expired: bool
    is_preferred: bool
    cvv_required: bool | None
    auto_debit: Annotated[bool, Field(description="Can be charged without the payer: `cvv_required` is false.")]
    agreements: list[str]
    name_on_card: str | None
    first_seen_at: dt.datetime
    confirmed_at: Annotated[dt.datetime | None, Field(description="When the list was asked for that showed it.")]
    removed_at: dt.datetime | None
    removed_because: Literal["requested", "absent"] | None
    token: Annotated[
        str | None,
        Field(description="Only with scope `tokens:read`; null unless the card is active."),
    ] = None


class CardList(Answer):
    """A customer's cards, preferred ones first, then the newest."""

    cards: list[Card]
    reconciled_at: Annotated[
        dt.datetime | None,
        Field(description="When the list was asked for that is believed; null if none ever was."),
    ]
    stale: Annotated[bool, Field(description="Whether `max_age` could not be met.")]


class Reconciliation(Answer):
    """A customer who will be looked at as soon as the budget of calls allows."""

    environment: Environment
    customer_id: str
    status: Literal["queued"] = "queued"


class Receipt(Answer):
    """The answer to a notification that is durable."""

    status: Literal["accepted", "duplicate", "ignored"]
    event_id: uuid.UUID


class Liveness(Answer):
    """The process answers."""

    status: Literal["alive"]


class Readiness(Answer):
    """What works. `checks` has `ok` or what is wrong, for `database`, `migrations`, `secret_key`, `broker`, `ottu`."""

    status: Literal["ready", "degraded", "not ready"]
    checks: dict[str, str]


class FieldError(Answer):
    """What is wrong with one field; values are never repeated."""

    field: str
    message: str


class ProblemDetails(Answer):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
    scope: Annotated[str | None, Field(description="With 403: the scope that the key lacks.")] = None
    errors: Annotated[list[FieldError] | None, Field(description="With 422: what is wrong.")] = None
