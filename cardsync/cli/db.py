"""``cardsync db``: migrate, say where the database stands, and let other services read the registry."""

from __future__ import annotations

from typing import Any

import click
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import URL, Engine
from sqlalchemy.exc import SQLAlchemyError

from cardsync import db as database
from cardsync.cli import console, db_restored, db_rights
from cardsync.errors import Misconfigured
from cardsync.settings import Settings
from cardsync.store import calendar
from cardsync.store.schema import Base


@click.group()
def db() -> None:
    """Migrate the database, and let others read it."""


@db.command()
@click.option("--revision", default="head", show_default=True, help="Target revision.")
@db_rights.login_options
@click.option("--close", "close_too", is_flag=True, help="Then do what `cardsync db close` does.")
@click.option("--sql", "only_print", is_flag=True, help="Print the migrations as a script for psql, and run none.")
def upgrade(
    revision: str,
    web_login: URL | None,
    worker_login: URL | None,
    console_login: URL | None,
    close_too: bool,
    only_print: bool,
) -> None:
    """Migrate the database up. Safe to run from several places at once.

    A FILE holds a process's own CARDSYNC_DATABASE_URL. Its user is made, or put right, with that password, and may do in the
    database what that process does and no more. A script of --sql is run by the login that shall own the tables, on
    PostgreSQL's own address and not through a pooler; `cardsync db roles --sql` prints what must be there before.
    """
    wanted = db_rights.wanted_logins(web_login, worker_login, console_login)
    if revision != "head" and wanted:
        raise click.UsageError("logins are made at the newest migration: leave --revision out")
    loaded = console.load("database")
    if only_print:
        if revision != "head" or wanted or close_too:
            raise click.UsageError("--sql prints all migrations and nothing else: leave the other options out")
        _print_script(loaded)
        return
    if not _migrate(loaded, revision):
        return
    with console.engine(loaded) as engine:
        click.echo(f"The database is at {database.current_revision(engine)}.")
        if revision == "head":
            _keep_time_zone(engine, loaded.time_zone)
        db_rights.let_in(engine, wanted, loaded.role_prefix)
        if close_too:
            db_rights.close_database(engine, loaded.role_prefix)


def _print_script(loaded: Settings) -> None:
    """Print what migrates the database from where it is."""
    with console.engine(loaded) as engine:
        at = database.current_revision(engine)
    if database.is_behind(at):
        click.echo(database.script(loaded.database(direct=True)(), at, loaded.role_prefix), nl=False)
    else:
        console.note(f"The database is at {at}: there is nothing to run.")


def _migrate(loaded: Settings, revision: str) -> bool:
    """Migrate; false, with a line, where a newer program did so. Raises ``Misconfigured`` for a server that cannot be used."""
    try:
        if revision == "head" and _is_newer(loaded):
            return False
        database.upgrade(loaded.database(direct=True)(), revision, loaded.role_prefix)
    except CommandError as error:
        raise click.BadParameter(str(error), param_hint="--revision") from None
    except SQLAlchemyError as error:
        if (why := database.unusable(error)) is None:
            raise
        raise Misconfigured(why) from None
    return True


def _is_newer(loaded: Settings) -> bool:
    """Whether a newer program migrated the database, and say so: this one goes on beside it, and would take rights from it."""
    with console.engine(loaded) as engine:
        at = database.current_revision(engine)
    if not database.is_newer(at):
        return False
    click.echo(
        f"The database is at {at}, newer than this program, which knows {database.newest_revision()}: nothing to do."
    )
    return True


def _keep_time_zone(engine: Engine, zone: str) -> None:
    with engine.begin() as connection:
        changed = calendar.keep_time_zone(connection, zone)
    if changed:
        click.echo(f"Cards' last days end by the clocks of {zone} now.")


@db.command()
@console.json_option
def current(as_json: bool) -> None:
    """Print the migration that the database is at."""
    with console.engine(console.load("database")) as engine:
        at = database.current_revision(engine)
    newest = database.newest_revision()
    if as_json:
        console.print_json({"current": at, "newest": newest, "up_to_date": at == newest})
    else:
        click.echo(at or "not migrated")


@db.command()
def check() -> None:
    """Check that the database is at the newest migration, and that its tables are as the code expects. It writes nothing."""
    with console.engine(console.load("database")) as engine:
        at, newest = database.current_revision(engine), database.newest_revision()
        if at != newest:
            console.fail(f"the database is at {at or 'no migration'}, the newest is {newest}; run: cardsync db upgrade")
        differences = _differences(engine)
    if differences:
        console.fail(f"{len(differences)} differences between the tables and the code: {differences}")
    click.echo(f"The database is at {at}, the newest migration.")


def _differences(engine: Engine) -> list[Any]:
    """What Alembic would change to make the tables as the code expects, read in a transaction that may write nothing."""
    options = {"version_table_schema": database.SCHEMA, "include_schemas": True, "include_name": database.include_name}
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, Base.metadata))


db.add_command(db_rights.grant)
db.add_command(db_rights.make_roles)
db.add_command(db_rights.close)
db.add_command(db_rights.publish)
db.add_command(db_restored.restored)
