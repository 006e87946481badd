"""``POST /webhooks/ottu``: the one place where Ottu speaks to us, with a payer's browser waiting behind it.

It answers success only for what is durable, and after that waits for nothing: bells are rung off this thread. A refusal
leaves a counter and a line without content; a flood of refusals leaves ten lines a second.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import structlog
from flask import Blueprint, Response
from sqlalchemy.exc import SQLAlchemyError

from cardsync import metrics
from cardsync.errors import InvalidSignature, MalformedBody
from cardsync.receive import Authentic, Receipt, WebhookKeys, examine, is_about_one, set_down, write
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


class Webhook:
    """What is done with a notification, whichever way it came in; bound to its services once.

    ``examine`` and ``write`` or ``set_down`` are the work; ``succeed`` or ``fail`` follows, counts, logs, and gives the answer.
    """

    def __init__(self, services: Services) -> None:
        self.max_bytes = services.settings.max_body_bytes
        self.ack_status = services.settings.ack_status
        self._engine, self._bells = services.ingest_engine, services.bells
        self._spool, self._reach = services.spool, services.reach
        self._keys = WebhookKeys.of(services.settings.webhook_keys(), services.settings.secret_bytes())
        self._refusals = SteadyLog()

    def examine(self, body: bytes) -> Authentic:
        """Verify a notification. Raises ``MalformedBody`` or ``InvalidSignature``."""
        return examine(body, self._keys)

    def write(self, authentic: Sequence[Authentic]) -> list[Receipt]:
        """Make notifications durable. Raises SQLAlchemy's ``DBAPIError``."""
        return write(self._engine, authentic)

    def set_down(self, authentic: Sequence[Authentic]) -> list[Receipt]:
        """Make notifications durable on disk. Raises ``SpoolUnusable``."""
        return set_down(self._spool, authentic, now=dt.datetime.now(dt.UTC))

    def keep(self, authentic: Authentic) -> Receipt:
        """Make one durable wherever that can be done, on this thread. Raises ``SpoolUnusable``."""
        if self._reach.is_there:
            try:
                return self.write([authentic])[0]
            except SQLAlchemyError as error:
                if not is_about_one(error):
                    self._reach.lost(error)
        return self.set_down([authentic])[0]

    def succeed(self, receipt: Receipt, *, began: float) -> str:
        """Ring; the body of the answer. Both its values are our own words: nothing to escape, so no encoder."""
        if receipt.to_ring:
            self._bells.ring_events((receipt.event_id,))
        metrics.HINTS.labels(receipt.status).inc()
        metrics.SIGNATURES.labels(str(receipt.key_index), receipt.scheme).inc()
        log.info(
            "hint",
            event_id=str(receipt.event_id),
            outcome=receipt.status,
            scheme=receipt.scheme,
            key=receipt.key_index,
        )
        metrics.HINT_SECONDS.observe(time.perf_counter() - began)
        return f'{{"status": "{receipt.status}", "event_id": "{receipt.event_id}"}}'

    def fail(self, error: Exception, *, began: float) -> Response:
        """Answer for a refusal, and where neither database nor disk takes anything: then Ottu does not send it again."""
        response = problems.answer(error)
        outcome = _OUTCOMES.get(response.status_code, "error")
        if isinstance(error, Problem | MalformedBody | InvalidSignature):
            self._refusals.warning("hint_refused", outcome=outcome)
        metrics.HINTS.labels(outcome).inc()
        metrics.HINT_SECONDS.observe(time.perf_counter() - began)
        return response


def blueprint(webhook: Webhook) -> Blueprint:
    """The webhook's route for any WSGI server, each notification written by itself."""
    made = Blueprint("webhook", __name__)

    @made.post(PATH)
    def ottu() -> Response:
        began = time.perf_counter()
        try:
            receipt = webhook.keep(webhook.examine(read_json_bytes(webhook.max_bytes)))
        except Exception as error:  # noqa: BLE001  (the table of errors knows them all)
            return webhook.fail(error, began=began)
        body = webhook.succeed(receipt, began=began)
        return Response(body, status=webhook.ack_status, content_type="application/json")

    return made
