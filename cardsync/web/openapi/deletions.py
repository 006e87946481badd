"""The description of deletions and erasures."""

from __future__ import annotations

from typing import Final

from cardsync.web.api import deletion_schemas as schemas
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

_CONFLICT: Final = (
    "The key came with another body before; or the card is in no state to be deleted (removed already, or not yet shown by "
    "a list); or Ottu offers no API for cards here (`OTTU_CARDS_API=unavailable`)."
)


def paths() -> Document:
    """The paths and what can be done there."""
    return {
        "/v1/deletions": {"get": _list_deletions(), "post": _request_deletion()},
        "/v1/deletions/{deletion_id}": {"get": _show_deletion()},
        "/v1/customers/erase": {"post": _request_erasure()},
        "/v1/customers/erasures/{erasure_id}": {"get": _show_erasure()},
    }


def _request_deletion() -> Document:
    about = (
        "The card leaves `active` at once. It is `done` only when a list of Ottu's, asked for after Ottu was told to delete "
        "it, no longer has it. Asking for a card whose deletion is under way gives that deletion."
    )
    models = ("DeletionByCard", "DeletionByToken")
    either = {
        "anyOf": [json_content(name)["application/json"]["schema"] for name in models]
    }  # the first is the example
    return operation(
        "requestDeletion",
        "Deletions",
        "Delete a card",
        about,
        scopes=("cards:delete",),
        parameters=[idempotency_key(required=True)],
        body={"application/json": {"schema": either}},
        responses={202: accepted("Deletion")}
        | problems(400, 401, 403, 404, 411, 413, 415, 422, 429, 503)
        | {409: {**problems(409)[409], "description": _CONFLICT}},
    )


def _list_deletions() -> Document:
    return operation(
        "listDeletions",
        "Deletions",
        "Deletions of a customer",
        "The newest first. An unknown customer has none.",
        scopes=("cards:delete", "cards:read"),
        parameters=query_parameters(schemas.DeletionsQuery),
        responses={200: json_answer("DeletionList", "The deletions.")} | problems(401, 403, 422, 429, 503),
    )


def _show_deletion() -> Document:
    about = "Every step with its time: who asked, each call and Ottu's status, and the list that proved it."
    return operation(
        "getDeletion",
        "Deletions",
        "A deletion and its receipt",
        about,
        scopes=("cards:delete", "cards:read"),
        parameters=[path_id("deletion_id", "Of the answer to the request.")],
        responses={200: json_answer("DeletionReceipt", "The deletion.")} | problems(401, 403, 404, 422, 429, 503),
    )


def _request_erasure() -> Document:
    about = (
        "Delete all cards of a customer in both environments, wait until lists of both prove it, then remove names, masked "
        "numbers and expiry dates. Receipts stay, and so does the customer's id. Asking for a customer whose erasure is "
        "under way gives that erasure."
    )
    return operation(
        "requestErasure",
        "Deletions",
        "Erase a person",
        about,
        scopes=("cards:delete",),
        parameters=[idempotency_key(required=True)],
        body=json_content("ErasureRequest"),
        responses={202: accepted("Erasure")}
        | problems(400, 401, 403, 411, 413, 415, 422, 429, 503)
        | {409: {**problems(409)[409], "description": _CONFLICT}},
    )


def _show_erasure() -> Document:
    return operation(
        "getErasure",
        "Deletions",
        "An erasure and its deletions",
        "Its progress, and which cards hold it up.",
        scopes=("cards:delete", "cards:read"),
        parameters=[path_id("erasure_id", "Of the answer to the request.")],
        responses={200: json_answer("Erasure", "The erasure.")} | problems(401, 403, 404, 422, 429, 503),
    )
