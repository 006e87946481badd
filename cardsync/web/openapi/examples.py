"""Examples for the description: one value for each field's name, of which the example of every schema and answer is made.

So examples agree with each other and with the models: a schema that gets a field gets it in its example, and a test asks for the
value of a new field's name.
"""

from __future__ import annotations

from typing import Any, Final

from cardsync.web.problems import KINDS, OF_STATUS

_CARD: Final = "6f1f2d0e-6a43-4d0c-9a54-0d6ce7f2f7aa"
_MOMENT: Final = "2027-01-01T21:00:00Z"

BY_NAME: Final[dict[str, Any]] = {
    "after": _CARD,
    "agreement_id": "sub-2031",
    "agreements": ["sub-2031"],
    "at": _MOMENT,
    "attempts": 1,
    "auto_debit": True,
    "brand": "VISA",
    "calls_a_day": 90_000,
    "calls_paused_because": None,
    "calls_spent": 1_204,
    "card_id": _CARD,
    "checks": {"database": "ok", "migrations": "ok", "secret_key": "ok", "broker": "ok", "ottu": "ok"},
    "code": None,
    "confirmed_at": _MOMENT,
    "customer_id": "cust-8841",
    "cvv_required": False,
    "deletion_id": "b7a0c5f4-3c2e-4f0a-8b0e-7d6b1d5c9e21",
    "detail": {"requested_by": "checkout"},
    "dirty_since": None,
    "due_customers": 3,
    "erasure_id": "1d9f0f0a-52f6-4a37-9e0c-8a1f5c0b7d33",
    "error": None,
    "event_id": "0d1c2b3a-4f5e-4d6c-8b7a-990011223344",
    "expires_on": "2039-01-31",
    "expiry_month": "01",
    "expiry_year": "39",
    "failed_events": 0,
    "feed_head": 48_213,
    "fields": ["expires_on", "expiry_year"],
    "finished_at": _MOMENT,
    "first_seen_at": _MOMENT,
    "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "held_deletions": 0,
    "is_expired": False,
    "is_preferred": True,
    "last4": "0008",
    "last_error": None,
    "limit": 100,
    "max_age": 300,
    "message": "Field required",
    "name_on_card": "EXAMPLE CUSTOMER",
    "next_attempt_at": None,
    "number": "**** 0008",
    "oldest_deletion_seconds": 0.0,
    "oldest_due_seconds": 0.4,
    "oldest_pending_seconds": 0.0,
    "open_deletions": 0,
    "pending_events": 0,
    "pg_code": "credit-card",
    "pg_name": "Credit Card",
    "reason": "the customer asked",
    "reconciled_at": _MOMENT,
    "reconciliation_id": "5a1b7c9e-0f3d-4b2a-9c8e-112233445566",
    "removal_brake_engaged": False,
    "removed_at": None,
    "removed_because": None,
    "request_id": "8c1f0a6b7d2e4f3a9b5c6d7e8f901234",
    "requested_at": _MOMENT,
    "requested_by": "checkout",
    "scope": "cards:read",
    "seq": 48_213,
    "stale": False,
    "step": "asked",
    "step_no": 1_741,
    "token": "example-token",
    "when_unlocked": False,
}
# Where a field of that name means something else than in other schemas.
BY_SCHEMA: Final[dict[str, dict[str, Any]]] = {
    "AgreementAtRisk": {"reason": "expiring", "since": _MOMENT},
    "AgreementAtRiskPage": {"next_after": "sub-2031"},
    "FieldError": {"field": "customer_id", "code": "missing"},
    "Liveness": {"status": "alive"},
    "Readiness": {"status": "ready"},
    "Receipt": {"status": "accepted"},
    "Reconciliation": {"reconciled_at": None},
}
NOTIFICATION: Final = {
    "result": "success",
    "state": "paid",
    "payment_type": "save_card",
    "is_sandbox": False,
    "session_id": "0" * 40,
    "token": {"token": "example-token", "customer_id": "cust-8841", "brand": "VISA", "number": "**** 0008"},
    "signature": "0" * 64,
}


def complete(document: dict[str, Any]) -> None:
    """Give every schema, parameter, body and answer of a description its example."""
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        if name != "ProblemDetails":
            schema.setdefault("examples", [_example(schema, schemas, name)])
        for field, property_ in schema.get("properties", {}).items():
            if "$ref" not in property_ and "examples" not in property_ and name != "ProblemDetails":
                property_["examples"] = [_of_field(name, field, property_, schemas)]
    schemas["ProblemDetails"]["examples"] = [problem(422)]
    for item in document["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", ()):
                if "example" not in parameter:
                    parameter["example"] = _of_parameter(parameter, schemas)
            _complete_content(operation.get("requestBody", {}), schemas, 0)
            for status, answer in operation["responses"].items():
                _complete_content(answer, schemas, int(status))


def problem(status: int, code: str | None = None) -> dict[str, Any]:
    """An example of a problem with this status."""
    kind = KINDS[code or OF_STATUS[status]]
    found: dict[str, Any] = {
        "type": kind.type,
        "code": kind.code,
        "title": kind.title,
        "status": status,
        "detail": f"{kind.title}.",
        "request_id": BY_NAME["request_id"],
    }
    if status == 403:
        found["scope"] = BY_NAME["scope"]
    if status == 410:
        found |= {"epoch": 2, "after": 18_423}
    if status == 422:
        found["errors"] = [{"field": "customer_id", "code": "missing", "message": "Field required"}]
    return found


def _complete_content(holder: dict[str, Any], schemas: dict[str, Any], status: int) -> None:
    for content in holder.get("content", {}).values():
        if "example" in content:
            continue
        schema = content["schema"]
        if schema.get("$ref", "").endswith("/ProblemDetails"):
            content["example"] = problem(status)
        else:
            content["example"] = _example(schema, schemas, "")


def _of_parameter(parameter: dict[str, Any], schemas: dict[str, Any]) -> Any:
    if parameter["name"] == "Idempotency-Key":
        return "order-4711-delete-card"
    return _of_field("", parameter["name"], parameter["schema"], schemas)


def _of_field(schema_name: str, field: str, schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    own = BY_SCHEMA.get(schema_name, {})
    if field in own:
        return own[field]
    if "examples" in schema:
        return schema["examples"][0]
    if field in BY_NAME and not _names_schemas(schema):
        return BY_NAME[field]
    return _example(schema, schemas, "")


def _names_schemas(schema: dict[str, Any]) -> bool:
    """Whether the field holds what has a schema of its own: a named list of values, or a list of things."""
    return "$ref" in schema or "$ref" in schema.get("items", {})


def _example(schema: dict[str, Any], schemas: dict[str, Any], name: str) -> Any:
    """Put an example together. Raises ``LookupError`` for a field whose name has no value in the table."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _example(schemas[name], schemas, name)
    if "anyOf" in schema:
        return _example(next(s for s in schema["anyOf"] if s != {"type": "null"}), schemas, "")
    if schema.get("type") == "array":
        return [_example(schema["items"], schemas, "")]
    if "properties" in schema:
        return {field: _of_field(name, field, s, schemas) for field, s in schema["properties"].items()}
    raise LookupError(f"no example for a field of {name or schema}")
