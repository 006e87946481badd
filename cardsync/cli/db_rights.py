"""Who may come in: roles and logins of the processes, logins of services, and what every login of the server may do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click
from sqlalchemy import URL, Connection, Engine

from cardsync import db as database
from cardsync.cli import console
from cardsync.errors import Misconfigured, Refused
from cardsync.store.access import change_capture, grants, logins, privileges, public, roles
from cardsync.store.access.role_names import named
from cardsync.store.ops import server
from cardsync.urls import DATABASE_SCHEMES, require_scheme

ROLES: Final = ("reader", "charger", "deleter")
NAME_BYTES: Final = 63  # PostgreSQL cuts a longer name


class Address(click.ParamType[Any]):
    """A file that holds the address of a database: a password is no argument, since `ps` shows those."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> URL:
        """Read it. Fails without quoting what it holds."""
        if isinstance(value, URL):
            return value
        try:
            content = Path(str(value)).read_text(encoding="utf-8").strip()
            require_scheme(content, DATABASE_SCHEMES)
            return database.sqlalchemy_url(content)
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"cannot be read: {type(error).__name__}", param, ctx)
        except (Misconfigured, ValueError):
            self.fail("does not hold an address like postgresql://user:password@host/database", param, ctx)


def _only_print(command: Callable[..., None]) -> Callable[..., None]:
    """The option of commands that can leave their statements to somebody else; it arrives as ``only_print``."""
    said = "Print the statements for a superuser, and run none."
    return click.option("--sql", "only_print", is_flag=True, help=said)(command)


@click.command()
@click.argument("login")
@click.option("--role", type=click.Choice(ROLES), help="Rights of the login.")
@click.option("--cdc", is_flag=True, help="In place of a role: capture changes by logical decoding.")
@click.option(
    "--connections",
    type=click.IntRange(1, 10_000),
    default=grants.CONNECTIONS,
    show_default=True,
    help="Sessions that the login may have at once.",
)
@_only_print
def grant(login: str, role: str | None, cdc: bool, connections: int, only_print: bool) -> None:
    """Let LOGIN, a role that exists, read the registry (charger: also tokens; deleter: also ask for deletions).

    It also limits the login's sessions and temporary files, and sets the role's time-outs, which a membership does not pass on.

    With --cdc the login may read the columns that `cardsync db publication` publishes, and gets REPLICATION, which belongs to the
    whole server. Safe to repeat: other rights on tables of cardsync are taken from it.
    """
    if cdc is (role is not None):
        raise click.UsageError("say either --role or --cdc")
    loaded = console.load("database")
    with console.engine(loaded) as engine:
        try:
            if only_print:
                with engine.connect() as connection:
                    _print(_granting(connection, login, role, connections, loaded.role_prefix))
                return
            with engine.begin() as connection:
                if role is None:
                    left = change_capture.let_capture(
                        connection, login, connections=connections, prefix=loaded.role_prefix
                    )
                else:
                    left = grants.grant(connection, login, f"{loaded.role_prefix}{role}", connections=connections)
        except Refused as error:
            console.fail(str(error))
        _granted(engine, login, role, left, loaded.role_prefix)


def _granting(connection: Connection, login: str, role: str | None, connections: int, prefix: str) -> list[str]:
    """The statements that let a login in."""
    if role is None:
        return change_capture.lacking(connection, login, connections=connections, prefix=prefix)
    found = grants.statements(connection, login, f"{prefix}{role}", connections=connections)
    return [one.as_string() for one in found]


def _granted(engine: Engine, login: str, role: str | None, left: list[str], prefix: str) -> None:
    """Say what the login may do now, what is left for a superuser, and what it can do beyond that."""
    with engine.connect() as connection:
        is_open = bool(public.open_to_all(connection))
    if role is not None:
        click.echo(f"{console.printable(login)} is a {prefix}{role} now; it counts from its next session on.")
    elif not left:
        click.echo(f"{console.printable(login)} may capture changes now.")
    if left:
        what = "set some limits" if role is not None else "do all of it"
        click.echo(f"Your login may not {what}. A superuser must run:", err=True)
        for statement in left:
            click.echo(f"  {console.printable(statement)};", err=True)
    if role is None:
        click.echo(
            "REPLICATION belongs to the whole server: this login could copy all of it, tokens too. See "
            "docs/deployment/change-capture.md.",
            err=True,
        )
    if is_open:
        click.echo("Every login can still fill this database's disk or memory; see: cardsync db close --help", err=True)


@click.command("publication")
@click.option("--name", default=change_capture.NAME, show_default=True, help="Its name in this database.")
@_only_print
def publish(name: str, only_print: bool) -> None:
    """Make the publication for change data capture (Debezium and the like), or put it right.

    It names its tables and columns: no token, name, masked number, body or key is among them. Run it again after an update:
    a release may publish more. The login that reads it is let in by `cardsync db grant --cdc`.
    """
    if not 0 < len(name.encode()) <= NAME_BYTES:
        raise click.BadParameter(f"1 to {NAME_BYTES} bytes", param_hint="--name")
    loaded = console.load("database")
    with console.engine(loaded) as engine:
        try:
            if only_print:
                with engine.connect() as connection:
                    _print(change_capture.statements(connection, name))
                return
            with engine.begin() as connection:
                changed = change_capture.publish(connection, name)
        except Refused as error:
            console.fail(str(error))
        with engine.connect() as connection:
            level = server.wal_level(connection)
    tables = ", ".join(f"{change_capture.SCHEMA}.{table}" for table in change_capture.PUBLISHED)
    click.echo(f"{console.printable(name)} publishes {tables}{' now' if changed else ': nothing to do'}.")
    if level != "logical":
        console.note(f"wal_level is {level}: set it to logical and restart the server, else nothing can be decoded.")


def login_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that name the processes' logins; they arrive as ``web_login``, ``worker_login`` and ``console_login``."""
    for option in (
        click.option(
            "--console-login",
            metavar="FILE",
            type=Address(),
            help="Also make the login in this file for the operators' console.",
        ),
        click.option(
            "--worker-login",
            metavar="FILE",
            type=Address(),
            help="Also make the login in this file for worker and beat.",
        ),
        click.option(
            "--web-login", metavar="FILE", type=Address(), help="Then make the login in this file for the web."
        ),
    ):
        command = option(command)
    return command


def wanted_logins(web: URL | None, worker: URL | None, of_console: URL | None) -> Mapping[str, URL]:
    """The logins that are asked for, by their role. Raises ``UsageError`` if two of them are one user."""
    asked = {privileges.WEB: web, privileges.WORKER: worker, privileges.CONSOLE: of_console}
    wanted = {role: address for role, address in asked.items() if address is not None}
    if len({address.username for address in wanted.values()}) < len(wanted):
        raise click.UsageError("two of these logins name one user: give each process one of its own")
    return wanted


def let_in(engine: Engine, wanted: Mapping[str, URL], prefix: str) -> None:
    """Make the processes' logins, and grant all rights as ``privileges`` lists them, in case somebody changed them."""
    for role, address in wanted.items():
        with engine.begin() as connection:
            logins.ensure(connection, address, role, prefix)
            privileges.grant_all(connection, prefix)
        click.echo(f"{console.printable(address.username)} is a {named(role, prefix)} now.")


@click.command("roles")
@login_options
@_only_print
def make_roles(web_login: URL | None, worker_login: URL | None, console_login: URL | None, only_print: bool) -> None:
    """Make the roles and logins that are missing; with --sql print what a superuser must run instead.

    The statements are for psql, in this database: roles, schemas that belong to the login of CARDSYNC_DATABASE_URL, the logins in
    the files (with verifiers, no passwords), and what closes the database. Afterwards that login needs no right to make roles.
    """
    wanted = wanted_logins(web_login, worker_login, console_login)
    loaded = console.load("database")
    prefix = loaded.role_prefix
    with console.engine(loaded) as engine:
        if not only_print:
            with engine.begin() as connection:
                made = roles.ensure(connection, prefix)
            click.echo(f"Made: {', '.join(made)}." if made else "All roles are there.")
            let_in(engine, wanted, prefix)
            return
        with engine.connect() as connection:
            _print(roles.statements(connection, prefix))
            for role, address in wanted.items():
                _print(one.as_string() for one in logins.statements(connection, address, role, prefix))
            _print(public.statements(connection, prefix))


def _print(statements: Iterable[str]) -> None:
    click.echo("".join(f"{statement};\n" for statement in statements), nl=False)


@click.command()
@_only_print
def close(only_print: bool) -> None:
    """Let only logins that were granted something use this database.

    By PostgreSQL's default every login of the server may connect, make temporary tables and large objects, and take locks
    until the server has no memory for more. This takes that away. If applications of your own have tables in this database, first
    grant them by name what they use.
    """
    loaded = console.load("database")
    with console.engine(loaded) as engine:
        if only_print:
            with engine.connect() as connection:
                _print(public.statements(connection, loaded.role_prefix))
        else:
            close_database(engine, loaded.role_prefix)


def close_database(engine: Engine, prefix: str) -> None:
    """Close, and say what could not be closed and which logins are left out."""
    with engine.begin() as connection:
        closed = public.close(connection, prefix)
    for name in closed.shut_out:
        click.echo(f"{console.printable(name)} may not connect any more; GRANT CONNECT ON DATABASE lets it in again.")
    if closed.still_open:
        what = ", ".join(closed.still_open)
        console.fail(f"every login may still {what}: have a superuser run what `cardsync db close --sql` prints")
    click.echo("Only logins that were granted something can use this database now.")
