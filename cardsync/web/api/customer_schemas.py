"""Requests and answers for customers and reconciliations (see ``schemas`` for the rules)."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Final

from pydantic import Field

from cardsync.web.api.enums import Environment, ReconciliationStatus
from cardsync.web.api.schemas import Answer, CustomerId, Input


class CustomerQuery(Input):
    """Which customer."""

    environment: Environment
    customer_id: CustomerId


class ReconciliationRequest(Input):
    """Which customer to look at."""

    environment: Environment
    customer_id: CustomerId


class Customer(Answer):
    """How fresh what is known of a customer is."""

    environment: Environment
    customer_id: Annotated[str, Field(description="The merchant's own identifier of the customer.")]
    reconciled_at: Annotated[
        dt.datetime | None,
        Field(description="When the list that is believed was asked for; null if there is none."),
    ]
    dirty_since: Annotated[
        dt.datetime | None,
        Field(description="Since when there is evidence that no believed list has answered; null if there is none."),
    ]
    last_error: Annotated[
        str | None, Field(description="Why the last list could not be had; null after one that could.")
    ]


class Reconciliation(Answer):
    """A look at a customer that was asked for."""

    reconciliation_id: Annotated[
        uuid.UUID, Field(description="Under which its end can be asked about, for seven days.")
    ]
    environment: Environment
    customer_id: Annotated[str, Field(description="The merchant's own identifier of the customer.")]
    status: ReconciliationStatus
    requested_at: Annotated[dt.datetime, Field(description="When it was asked for.")]
    reconciled_at: Annotated[
        dt.datetime | None, Field(description="When the list that answers it was asked for; null until it is done.")
    ]
    error: Annotated[str | None, Field(description="Why the last try failed, while it is not done.")]


INPUTS: Final = (ReconciliationRequest,)
ANSWERS: Final = (Customer, Reconciliation)
