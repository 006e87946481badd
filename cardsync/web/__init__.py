"""The web: the webhook, the API, health and figures, the description. Everything bounded, every error a problem document."""

from __future__ import annotations

from importlib.metadata import version

from flask import Flask
from sqlalchemy import Engine

from cardsync.bells import Bells
from cardsync.settings import Settings
from cardsync.web import api, docs, envelope, exposition, health, openapi, problems, webhook
from cardsync.web.services import Services

__all__ = ["create_app"]


def create_app(settings: Settings, *, ingest_engine: Engine, engine: Engine, bells: Bells) -> Flask:
    """Make the application. ``ingest_engine`` commits each statement by itself. Nothing is connected to here."""
    app = Flask("cardsync.web", static_folder=None, template_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    # `//v1/cards` is a mistake to be told (404), not one to be redirected.
    app.url_map.merge_slashes = False
    services = Services.of(settings, ingest_engine=ingest_engine, engine=engine, bells=bells)
    services.store_in(app.extensions)
    problems.register(app)
    envelope.register(app)
    app.register_blueprint(webhook.blueprint(services))
    app.register_blueprint(api.blueprint)
    app.register_blueprint(health.blueprint(services))
    app.register_blueprint(exposition.blueprint(services))
    app.register_blueprint(docs.blueprint(openapi.build(version("cardsync"))))
    return app
