"""Requests and answers about what expires and what is at risk."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

from cardsync.web.api.enums import Environment, RiskReason
from cardsync.web.api.schemas import PAGE_DEFAULT, AgreementId, Answer, Card, Input, Limit, digits

WITHIN_MAX: Final = 365


class ExpiringCardsQuery(Input):
    """Which cards, and where the page begins."""

    environment: Environment
    within_days: Annotated[
        Annotated[int, Field(ge=1, le=WITHIN_MAX)],
        BeforeValidator(digits),
        Field(
            description="How many days from today the card's last day may be, in the merchant's time zone.",
            examples=[30],
        ),
    ]
    after: Annotated[
        uuid.UUID | None,
        Field(
            description="The last page's `next_after`; without it, the first page.",
            examples=["0f0c3a52-9a53-4d4e-8a7e-5f1f4c9f3d21"],
        ),
    ] = None
    limit: Limit = PAGE_DEFAULT


class AtRiskQuery(Input):
    """Which agreements, and where the page begins."""

    environment: Environment
    after: Annotated[
        AgreementId | None,
        Field(description="The last page's `next_after`; without it, the first page.", examples=["sub-2031"]),
    ] = None
    limit: Limit = PAGE_DEFAULT


class ChargeNotice(Input):
    """Billing tells of a charge that Ottu does not notify."""

    environment: Environment
    agreement_id: AgreementId
    charged_at: Annotated[
        AwareDatetime | None,
        Field(description="When it was charged; now, if neither time is given.", examples=["2027-03-01T06:00:00Z"]),
    ] = None
    next_charge_at: Annotated[
        AwareDatetime | None,
        Field(
            description="When it is charged next, if billing knows; otherwise the agreement's calendar tells.",
            examples=["2027-04-01T06:00:00Z"],
        ),
    ] = None


class ChargeNoted(Answer):
    """When the next charge of the agreement is expected. The card is looked at shortly before."""

    environment: Environment
    agreement_id: Annotated[str, Field(description="Exactly as Ottu has it.", examples=["sub-2031"])]
    next_charge_at: Annotated[
        dt.datetime | None,
        Field(description="When it is expected; null if nothing tells.", examples=["2027-04-01T06:00:00Z"]),
    ]


class ExpiringCard(Card):
    """An active card that expires soon."""

    expires_in_days: Annotated[int, Field(description="0 on the last day on which the card is good.", examples=[12])]


class ExpiringCardPage(Answer):
    """Active cards that expire soon, in order of their `card_id`; never with a token."""

    cards: Annotated[list[ExpiringCard], Field(description="The cards of this page.")]
    next_after: Annotated[
        uuid.UUID | None,
        Field(
            description="Where the next page begins; null on the last one.",
            examples=["0f0c3a52-9a53-4d4e-8a7e-5f1f4c9f3d21"],
        ),
    ]


class AgreementAtRisk(Answer):
    """An agreement whose next charge may fail."""

    environment: Environment
    agreement_id: Annotated[str, Field(description="Exactly as Ottu has it.", examples=["sub-2031"])]
    card_id: Annotated[
        uuid.UUID | None,
        Field(
            description="The card that it is charged to; null with `no_card`.",
            examples=["0f0c3a52-9a53-4d4e-8a7e-5f1f4c9f3d21"],
        ),
    ]
    reason: RiskReason
    since: Annotated[
        dt.datetime, Field(description="Since when it is at risk for this reason.", examples=["2027-01-01T21:00:00Z"])
    ]


class AgreementAtRiskPage(Answer):
    """Agreements at risk, in order of their id."""

    agreements: Annotated[list[AgreementAtRisk], Field(description="The agreements of this page.")]
    next_after: Annotated[
        str | None, Field(description="Where the next page begins; null on the last one.", examples=["sub-2031"])
    ]


ANSWERS: Final[tuple[type[BaseModel], ...]] = (
    ExpiringCard,
    ExpiringCardPage,
    AgreementAtRisk,
    AgreementAtRiskPage,
    ChargeNoted,
)
INPUTS: Final[tuple[type[BaseModel], ...]] = (ChargeNotice,)
