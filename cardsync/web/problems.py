"""The kinds of problems, each with a code that stays: a client program decides by ``code``, a person reads ``detail``.

Every problem that the API or the proxy answers is one of these. ``type`` is the path of a page that explains the kind
(``web.openapi.page``). A code is never renamed and never means something else; a new release may add some. The proxy's own
answers (``deploy/nginx``) are written by hand with these codes, and a test compares them with this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

PATH: Final = "/problems/"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. ``title`` says what happened, ``advice`` what the caller should do."""

    code: str
    status: HTTPStatus
    title: str
    advice: str

    @property
    def type(self) -> str:
        """The URI of the kind: the path of its page."""
        return PATH + self.code


_ALL: Final = (
    Kind(
        "bad_request",
        HTTPStatus.BAD_REQUEST,
        "The request cannot be read",
        "Correct the request: its request line or one of its headers is not valid HTTP.",
    ),
    Kind(
        "malformed_body",
        HTTPStatus.BAD_REQUEST,
        "The body is not one JSON object",
        "Send one JSON object in UTF-8, as long as Content-Length says.",
    ),
    Kind(
        "invalid_key",
        HTTPStatus.UNAUTHORIZED,
        "No valid API key",
        "Send a key that is neither revoked nor expired: `Authorization: Bearer <key>`.",
    ),
    Kind(
        "invalid_signature",
        HTTPStatus.UNAUTHORIZED,
        "The notification's signature is not valid",
        "Compare the HMAC key in Ottu's dashboard with `OTTU_WEBHOOK_KEYS`.",
    ),
    Kind(
        "insufficient_scope",
        HTTPStatus.FORBIDDEN,
        "The key lacks the scope",
        "Use a key with the scope that `scope` names. `cardsync keys create` makes one.",
    ),
    Kind(
        "not_found",
        HTTPStatus.NOT_FOUND,
        "There is nothing at this address",
        "Compare the path with the description at `/docs`.",
    ),
    Kind(
        "card_not_found",
        HTTPStatus.NOT_FOUND,
        "There is no such card",
        "Compare the id with the list of the customer's cards. A card that was removed is still found by its id.",
    ),
    Kind(
        "agreement_without_card",
        HTTPStatus.NOT_FOUND,
        "No active card serves the agreement",
        "Ask the customer to pay with a card again under the same agreement id.",
    ),
    Kind(
        "agreement_not_found",
        HTTPStatus.NOT_FOUND,
        "The agreement is not known",
        "Use the id that Ottu has. An agreement is known once a notification or a card of Ottu's list has named it.",
    ),
    Kind("customer_not_found", HTTPStatus.NOT_FOUND, "The customer is not known", "Ask for a reconciliation first."),
    Kind("deletion_not_found", HTTPStatus.NOT_FOUND, "There is no such deletion", "Use the id that the request got."),
    Kind("erasure_not_found", HTTPStatus.NOT_FOUND, "There is no such erasure", "Use the id that the request got."),
    Kind(
        "reconciliation_not_found",
        HTTPStatus.NOT_FOUND,
        "There is no such reconciliation",
        "Use the id that the request got. It can be asked about for seven days.",
    ),
    Kind(
        "method_not_allowed",
        HTTPStatus.METHOD_NOT_ALLOWED,
        "The address does not take this method",
        "Use one of the methods that the header `Allow` names.",
    ),
    Kind(
        "impossible_time",
        HTTPStatus.CONFLICT,
        "The time cannot be",
        "Compare the clock of the program that asks: what was charged lies behind, what is charged next ahead.",
    ),
    Kind(
        "conflict",
        HTTPStatus.CONFLICT,
        "The request does not go with what is there",
        "Read `detail`, and look at the thing again before the next try.",
    ),
    Kind(
        "idempotency_key_reused",
        HTTPStatus.CONFLICT,
        "The idempotency key came with another request before",
        "Use a new key for a new request. Send the first request's body again to get the first answer again.",
    ),
    Kind(
        "feed_restored",
        HTTPStatus.GONE,
        "A backup was restored: changes that the caller may have read are gone",
        "Read the cards that you keep again. Then go on with the `after` and `epoch` that this answer names.",
    ),
    Kind("card_removed", HTTPStatus.CONFLICT, "The card is removed already", "Nothing is left to be done."),
    Kind(
        "card_unconfirmed",
        HTTPStatus.CONFLICT,
        "No list of Ottu's has shown the card yet",
        "Ask for a reconciliation of the customer, and try again when it is done.",
    ),
    Kind(
        "card_locked",
        HTTPStatus.CONFLICT,
        "Ottu refuses: the card serves an agreement",
        "Let the customer pay with another card under the agreement, or end the agreement. A deletion with `when_unlocked` "
        "then goes on by itself.",
    ),
    Kind(
        "cards_api_unavailable",
        HTTPStatus.CONFLICT,
        "Ottu offers no API for cards here",
        "Nothing can be listed or deleted where `OTTU_CARDS_API=unavailable`; webhooks are the only source.",
    ),
    Kind(
        "length_required",
        HTTPStatus.LENGTH_REQUIRED,
        "The length of the body is not announced",
        "Send the header `Content-Length`; a chunked body is not taken.",
    ),
    Kind(
        "body_too_large",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "The body is too large",
        "Send a smaller body. `detail` has the bound, where the application refused it.",
    ),
    Kind("uri_too_long", HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long", "Shorten the query."),
    Kind(
        "unsupported_media_type",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "The body is not declared as JSON",
        "Send `Content-Type: application/json`.",
    ),
    Kind(
        "invalid_request",
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A field is missing or not valid",
        "Correct the fields that `errors` names, each by its `code`.",
    ),
    Kind(
        "unknown_field",
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "The request has a field that is not known here",
        "Remove or correct the field that `errors` names. It may be misspelt.",
    ),
    Kind(
        "rate_limited",
        HTTPStatus.TOO_MANY_REQUESTS,
        "Too many requests",
        "Wait for as long as `Retry-After` says. The header `RateLimit` says how much is left.",
    ),
    Kind(
        "calls_spent",
        HTTPStatus.TOO_MANY_REQUESTS,
        "The key has caused all the calls to Ottu that it may cause today",
        "Wait until the next day of UTC begins, or give the key more: `--calls-per-day`.",
    ),
    Kind(
        "header_too_large",
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "A header is too large",
        "Send smaller headers: 8 kB at most.",
    ),
    Kind(
        "request_failed",
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Something went wrong on our side",
        "Try again with the same idempotency key; tell an operator the `request_id`.",
    ),
    Kind("not_implemented", HTTPStatus.NOT_IMPLEMENTED, "The proxy cannot do this", "Use a method that `/docs` names."),
    Kind(
        "unavailable",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Not possible at the moment",
        "Try again after `Retry-After`, with the same idempotency key.",
    ),
    Kind(
        "database_unavailable",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "The database cannot be reached",
        "Try again after `Retry-After`, with the same idempotency key. Nothing was changed.",
    ),
    Kind(
        "nothing_durable",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Neither the database nor the disk takes the notification",
        "An operator must look at both: the notification is not kept.",
    ),
    Kind(
        "too_many_waiting",
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Too many requests wait already",
        "Try again after `Retry-After`, or ask without `wait`.",
    ),
    Kind(
        "gateway_timeout",
        HTTPStatus.GATEWAY_TIMEOUT,
        "The application did not answer in time",
        "Try again after `Retry-After`, with the same idempotency key: the request may have been done.",
    ),
)
KINDS: Final[Mapping[str, Kind]] = {kind.code: kind for kind in _ALL}

# The code of an error that has a status and no code of its own, such as the framework's.
OF_STATUS: Final[Mapping[int, str]] = {
    400: "bad_request",
    401: "invalid_key",
    403: "insufficient_scope",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    410: "feed_restored",
    411: "length_required",
    413: "body_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "rate_limited",
    431: "header_too_large",
    500: "request_failed",
    501: "not_implemented",
    503: "unavailable",
    504: "gateway_timeout",
}


@dataclass(frozen=True, slots=True)
class FieldCode:
    """What can be wrong with one field of a request."""

    code: str
    meaning: str


FIELD_CODES: Final = (
    FieldCode("missing", "The field is required."),
    FieldCode("unknown_field", "There is no such field here."),
    FieldCode("repeated", "The field may be given once."),
    FieldCode("wrong_type", "The value has another type than the field, such as a text in place of a number."),
    FieldCode("too_short", "The text or list is too short."),
    FieldCode("too_long", "The text or list is too long."),
    FieldCode("out_of_range", "The number is too small or too large."),
    FieldCode("not_allowed", "The value is not one of those that the field takes."),
    FieldCode("not_a_uuid", "The id is not a UUID in its usual form, such as 6f1f2d0e-6a43-4d0c-9a54-0d6ce7f2f7aa."),
    FieldCode("invalid", "The value is not valid in another way; `message` says how."),
)

# By pydantic's name of an error, or its beginning; what is not here is ``invalid``.
_BY_TYPE: Final = (
    ("missing", "missing"),
    ("extra_forbidden", "unknown_field"),
    ("string_too_short", "too_short"),
    ("too_short", "too_short"),
    ("string_too_long", "too_long"),
    ("too_long", "too_long"),
    ("greater_than", "out_of_range"),
    ("less_than", "out_of_range"),
    ("literal_error", "not_allowed"),
    ("enum", "not_allowed"),
    ("uuid_type", "wrong_type"),
    ("uuid", "not_a_uuid"),
    ("string_type", "wrong_type"),
    ("bool_", "wrong_type"),
    ("int_", "wrong_type"),
    ("list_type", "wrong_type"),
    ("dict_type", "wrong_type"),
)


def field_code(pydantic_type: str) -> str:
    """Return our code for a kind of error that pydantic names."""
    return next((code for begin, code in _BY_TYPE if pydantic_type.startswith(begin)), "invalid")
