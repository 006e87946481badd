"""The description of customers and reconciliations."""

from __future__ import annotations

from cardsync.web.api import customer_schemas as schemas
from cardsync.web.openapi.parts import (
    Document,
    accepted,
    idempotency_key,
    json_answer,
    json_content,
    operation,
    path_id,
    problems,
    query_parameters,
)


def paths() -> Document:
    """The paths and what can be done there."""
    return {
        "/v1/customers": {"get": _show_customer()},
        "/v1/reconciliations": {"post": _reconcile()},
        "/v1/reconciliations/{reconciliation_id}": {"get": _show_reconciliation()},
    }


def _show_customer() -> Document:
    return operation(
        "getCustomer",
        "Customers",
        "How fresh a customer is",
        "When Ottu's list was last believed, and whether there is evidence since that no list has answered.",
        scopes=("cards:read",),
        parameters=query_parameters(schemas.CustomerQuery),
        responses={200: json_answer("Customer", "The customer.")} | problems(401, 403, 404, 422, 429, 503),
    )


def _reconcile() -> Document:
    about = (
        "Ask Ottu for the customer's cards as soon as the budget of calls allows. Any number of requests make one call. "
        "`GET /v1/reconciliations/{reconciliation_id}` says when it is done."
    )
    return operation(
        "reconcile",
        "Customers",
        "Look at a customer again",
        about,
        scopes=("cards:reconcile",),
        parameters=[idempotency_key(required=False)],
        body=json_content("ReconciliationRequest"),
        responses={202: accepted("Reconciliation", "It is queued.")}
        | problems(400, 401, 403, 409, 411, 413, 415, 422, 429, 503),
    )


def _show_reconciliation() -> Document:
    return operation(
        "getReconciliation",
        "Customers",
        "Whether a look is done",
        "Poll it every second or two. It can be asked about for seven days.",
        scopes=("cards:reconcile", "cards:read"),
        parameters=[path_id("reconciliation_id", "Of the answer to the request.")],
        responses={200: json_answer("Reconciliation", "The look.")} | problems(401, 403, 404, 422, 429, 503),
    )
