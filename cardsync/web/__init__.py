"""The web: the webhook, the API, health and figures, the description. Everything bounded, every error a problem document."""

from __future__ import annotations

from importlib.metadata import version

from flask import Flask
from sqlalchemy import Engine

from cardsync.bells import Bells
from cardsync.settings import Settings
from cardsync.web import headers, responses
from cardsync.web.api import cards
from cardsync.web.dispatch import Dispatcher
from cardsync.web.ingest import route
from cardsync.web.ingest.endpoint import Endpoint
from cardsync.web.ingest.spool_drainer import SpoolDrainer
from cardsync.web.openapi import document, page
from cardsync.web.ops import health, metrics
from cardsync.web.services import Services

__all__ = ["create_app", "create_dispatcher", "create_drainer"]


def create_app(settings: Settings, *, ingest_engine: Engine, engine: Engine, bells: Bells) -> Flask:
    """Make the application. ``ingest_engine`` commits each statement by itself. Nothing is connected to here."""
    app = Flask("cardsync.web", static_folder=None, template_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    # `//v1/cards` is a mistake to be told (404), not one to be redirected.
    app.url_map.merge_slashes = False
    services = Services.of(settings, ingest_engine=ingest_engine, engine=engine, bells=bells)
    services.store_in(app.extensions)
    endpoint = Endpoint(services)
    app.extensions[Endpoint.__name__] = endpoint
    responses.register(app)
    headers.register(app)
    app.register_blueprint(route.blueprint(endpoint))
    app.register_blueprint(cards.blueprint)
    app.register_blueprint(health.blueprint(services))
    app.register_blueprint(metrics.blueprint(engine, settings, services.spool))
    app.register_blueprint(page.blueprint(document.build(version("cardsync")), console=settings.console_base))
    return app


def create_dispatcher(app: Flask) -> Dispatcher:
    """The application as granian serves it: the webhook on the event loop, ``app`` for the rest; one endpoint for both."""
    return Dispatcher(app, app.extensions[Endpoint.__name__], threads=Services.of_app(app).settings.web_threads)


def create_drainer(app: Flask) -> SpoolDrainer:
    """Begin to empty the spool of ``app``, in the process that answers."""
    return SpoolDrainer(Services.of_app(app))
