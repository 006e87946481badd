"""A deployment's name: the same for all of its processes, another one in a copy of its database."""

from __future__ import annotations

import secrets

from sqlalchemy import Engine

from cardsync import db
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.store.ops.deployment import deployment_name


def name_of(engine: Engine) -> str:
    with engine.connect() as connection:
        return deployment_name(connection)


def test_every_process_finds_the_same_name(engine: Engine, web_engine: Engine, worker_engine: Engine) -> None:
    assert len({name_of(one) for one in (engine, web_engine, worker_engine)}) == 1


def test_a_copy_of_the_database_has_another_name(
    engine: Engine, postgres: EmbeddedPostgres, template_database: str
) -> None:
    copy = f"copy_{secrets.token_hex(6)}"
    postgres.create_database(copy, template=template_database)
    other = db.make_engine(postgres.url_for(copy))
    try:
        assert name_of(other) != name_of(engine)
    finally:
        other.dispose()
        postgres.drop_database(copy)
