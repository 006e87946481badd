"""The description of what is for operators' programs."""

from __future__ import annotations

from cardsync.web.api import operation_schemas as schemas
from cardsync.web.openapi.parts import Document, json_answer, operation, problems, query_parameters


def paths() -> Document:
    """The paths and what can be done there."""
    return {
        "/v1/ops/status": {"get": _status()},
        "/v1/ops/deletions": {"get": _deletions()},
    }


def _status() -> Document:
    return operation(
        "getOpsStatus",
        "Operations",
        "What waits and what is stopped",
        "The figures of `/metrics` that need a person when they grow.",
        scopes=("ops",),
        responses={200: json_answer("OpsStatus", "The figures.")} | problems(401, 403, 429, 503),
    )


def _deletions() -> Document:
    return operation(
        "listOpsDeletions",
        "Operations",
        "Deletions of all customers",
        "The newest first, such as those that failed and wait for an operator.",
        scopes=("ops",),
        parameters=query_parameters(schemas.OpsDeletionsQuery),
        responses={200: json_answer("DeletionList", "The deletions.")} | problems(401, 403, 422, 429, 503),
    )
