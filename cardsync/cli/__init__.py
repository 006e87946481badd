"""The command ``cardsync``: one group, whose commands are imported only when they are run.

The rules: ``--help`` imports no database driver and no broker; a command is a thin shell around a story; an
error that was to be expected is one line on standard error. Exit status: 0 done, 1 something failed, 2 wrong
usage or settings.
"""

from __future__ import annotations

import importlib
from typing import Any, Final, NamedTuple

import click

from cardsync.cli.version import show
from cardsync.errors import CardsyncError, Misconfigured


class _Entry(NamedTuple):
    """Where a command stands, and its line in ``--help``, which must not cost its import."""

    attribute: str
    summary: str


# A command stands in `cardsync.cli.<attribute>` under the same name, or in `<module>:<name>`.
COMMANDS: Final[dict[str, _Entry]] = {
    "beat": _Entry("beat", "Run one beat, which sends the ticks of the schedule."),
    "brake": _Entry("brake", "Show or release the brake on removals."),
    "cards": _Entry("show_customers:cards", "List a customer's cards."),
    "console": _Entry("console_server:console_command", "Run the operators' console."),
    "customers": _Entry("customers", "Show a customer, make customers known, or erase one."),
    "db": _Entry("db", "Migrate the database, and let others read it."),
    "deliveries": _Entry("deliveries", "List, show or replay deliveries of notifications to endpoints."),
    "deletions": _Entry("deletions", "Ask for deletions, list, show or replay them; verify their receipts."),
    "dev": _Entry("dev", "Run everything on this machine, with embedded services."),
    "doctor": _Entry("doctor", "Check settings, services and credentials; say what to do."),
    "endpoints": _Entry("endpoints", "Add or change endpoints, which get notifications or changes."),
    "erasures": _Entry("erasures", "Export receipts of erasures, or erase again after a restore."),
    "events": _Entry("events", "List, show or replay notifications."),
    "explain": _Entry("explain", "Explain a card's current status."),
    "health": _Entry("health", "Tell whether this host's worker or beat is at work."),
    "keys": _Entry("keys", "Create, list or revoke keys of the HTTP API; list the tokens they read."),
    "operators": _Entry("operators", "Invite, list or disable operators of the console; verify their journal."),
    "plan": _Entry("plan", "Forecast how stale customers get under the budget."),
    "reconcile": _Entry("reconcile", "Reconcile customers with Ottu's list, now."),
    "recover": _Entry("recover", "Ask Ottu about payments whose notifications never came."),
    "secret": _Entry("secret", "Change CARDSYNC_SECRET_KEY while everything runs."),
    "simulator": _Entry("simulator", "Run the stand-in for Ottu alone."),
    "spool": _Entry("spool", "List, restore or drop notifications that were set aside on disk."),
    "web": _Entry("web", "Run the web server."),
    "worker": _Entry("worker", "Run one worker."),
}


class _LazyGroup(click.Group):
    """A group that imports a command when it is run, and ends expected errors with one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.attribute.partition(":")
        command: click.Command = getattr(importlib.import_module(f"cardsync.cli.{module}"), name or module)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CardsyncError as error:
            click.echo(f"cardsync: {error}", err=True)
            ctx.exit(2 if isinstance(error, Misconfigured) else 1)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # the process's border
            line = _line_of(error)
            if line is None:
                raise
            click.echo(f"cardsync: {line}", err=True)
            ctx.exit(1)


def _line_of(error: Exception) -> str | None:
    """The database's error in a line; ``None`` for what was not to be expected, which shows its traceback."""
    from cardsync.cli.console import database_error

    return database_error(error)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version and exit."
)
def main() -> None:
    """Keep a registry of card tokens that always says what Ottu says.

    Settings come from environment variables, files (NAME_FILE) and .env; `cardsync doctor` checks them.
    """
