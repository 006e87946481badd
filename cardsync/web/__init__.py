"""The web: the webhook, the API, health and figures, the description. Everything bounded, every error a problem document."""

from __future__ import annotations

from importlib.metadata import version

from flask import Flask
from sqlalchemy import Engine

from cardsync.bells import Bells
from cardsync.settings import Settings
from cardsync.web import api, docs, envelope, exposition, health, openapi, problems, webhook
from cardsync.web.drainer import Drainer
from cardsync.web.front import Front
from cardsync.web.services import Services, services
from cardsync.web.webhook import Webhook

__all__ = ["create_app", "create_drainer", "create_front"]


def create_app(settings: Settings, *, ingest_engine: Engine, engine: Engine, bells: Bells) -> Flask:
    """Make the application. ``ingest_engine`` commits each statement by itself. Nothing is connected to here."""
    app = Flask("cardsync.web", static_folder=None, template_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    # `//v1/cards` is a mistake to be told (404), not one to be redirected.
    app.url_map.merge_slashes = False
    stood_on = Services.of(settings, ingest_engine=ingest_engine, engine=engine, bells=bells)
    stood_on.store_in(app.extensions)
    problems.register(app)
    envelope.register(app)
    app.register_blueprint(webhook.blueprint(Webhook(stood_on)))
    app.register_blueprint(api.blueprint)
    app.register_blueprint(health.blueprint(stood_on))
    app.register_blueprint(exposition.blueprint(stood_on))
    app.register_blueprint(docs.blueprint(openapi.build(version("cardsync"))))
    return app


def create_front(app: Flask) -> Front:
    """The application as granian serves it: the webhook on the event loop, ``app`` for the rest."""
    with app.app_context():
        found = services()
    return Front(app, Webhook(found), found.reach, threads=found.settings.web_threads)


def create_drainer(app: Flask) -> Drainer:
    """Begin to empty the spool of ``app``, in the process that answers."""
    with app.app_context():
        return Drainer(services())
