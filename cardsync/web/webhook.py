"""``POST /webhooks/ottu``: the one place where Ottu speaks to us, with a payer's browser waiting behind it.

It answers success only for what is durable, and after that waits for nothing: bells are rung off this thread. A refusal
leaves a counter and a line without content; a flood of refusals leaves ten lines a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import structlog
from flask import Blueprint, Response
from sqlalchemy.exc import SQLAlchemyError

from cardsync import metrics
from cardsync.errors import InvalidSignature, MalformedBody
from cardsync.receive import Receipt, WebhookKeys, receive, together
from cardsync.web import problems
from cardsync.web.inputs import read_json_bytes
from cardsync.web.problems import Problem
from cardsync.web.services import Services
from cardsync.web.steadylog import SteadyLog

log = structlog.get_logger(__name__)

PATH: Final = "/webhooks/ottu"
_OUTCOMES: Final[dict[int, str]] = {
    HTTPStatus.BAD_REQUEST: "malformed",
    HTTPStatus.UNAUTHORIZED: "unauthentic",
    HTTPStatus.LENGTH_REQUIRED: "no_length",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "not_json",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
}


def blueprint(services: Services) -> Blueprint:
    """The webhook's route, bound to its services once: nothing is looked up while a payer waits."""
    made = Blueprint("webhook", __name__)
    made.add_url_rule(PATH, view_func=_view(services), methods=["POST"], endpoint="ottu")
    return made


def _view(services: Services) -> Callable[[], Response]:
    settings, engine, bells = services.settings, services.ingest_engine, services.bells
    keys = WebhookKeys.of(settings.webhook_keys(), settings.secret_bytes())
    refusals = SteadyLog()
    write = together(engine)

    def answer_ottu() -> Response:
        began = time.perf_counter()
        try:
            body = read_json_bytes(settings.max_body_bytes)
            receipt = receive(engine, body, keys, write=write)
        # Nothing durable could be written. Ottu does not send it again after this answer: whatever may hold a hint while
        # the database is away belongs here.
        except SQLAlchemyError as error:
            response = problems.answer(error)
        except (Problem, MalformedBody, InvalidSignature) as error:
            response = problems.answer(error)
            refusals.warning("hint_refused", outcome=_OUTCOMES[response.status_code])
        except Exception:
            metrics.HINTS.labels("error").inc()
            raise
        else:
            if receipt.to_ring:
                bells.ring_events((receipt.event_id,))
            _count_and_log(receipt)
            response = _success(receipt, settings.ack_status)
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            metrics.HINTS.labels(_OUTCOMES[response.status_code]).inc()
        metrics.HINT_SECONDS.observe(time.perf_counter() - began)
        return response

    return answer_ottu


def _count_and_log(receipt: Receipt) -> None:
    metrics.HINTS.labels(receipt.status).inc()
    metrics.SIGNATURES.labels(str(receipt.key_index), receipt.scheme).inc()
    log.info(
        "hint",
        event_id=str(receipt.event_id),
        outcome=receipt.status,
        scheme=receipt.scheme,
        key=receipt.key_index,
    )


def _success(receipt: Receipt, ack_status: int) -> Response:
    """Both values are our own words: nothing to escape, so no encoder."""
    body = f'{{"status": "{receipt.status}", "event_id": "{receipt.event_id}"}}'
    return Response(body, status=ack_status, content_type="application/json")
