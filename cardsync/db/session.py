"""What every session to PostgreSQL relies on: set when it begins, verified before it is used, refused where it does not hold.

The server, the database and the login may each have other defaults, so everything is set in the session's own ``options``. A
pooler such as PgBouncer refuses these, or, as it is usually told to, ignores them in silence. Then a session has what the *login*
was given: ``cardsync db upgrade --web-login FILE`` gives it the same settings. So nothing is assumed: each new session is asked
what it has, in one statement, and a session that lacks something is closed with one line that says what to do.

**How a pooler is recognised.** PostgreSQL tells each client the number of its process when the session begins. A pooler invents
that number, because the server's process changes from one transaction to the next. A session whose own number differs goes
through a pooler. No statement is then prepared: the next transaction may meet a server that never saw it prepared, or another
statement of that name, and would return the wrong rows.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from sqlalchemy.exc import DBAPIError

from cardsync.db.address import NAME, Address
from cardsync.db.server_memory import SYSTEM_IDENTIFIER, TIMELINE, Server, ServerMemory
from cardsync.errors import Misconfigured

SCHEMA: Final = "cardsync"  # the private tables; what others may read stands in the schema `registry`
ROLE_PREFIX: Final = "cardsync_"  # of the names of the roles, if CARDSYNC_ROLE_PREFIX says no other

# A person waits behind a webhook and Ottu gives up after 15 s: no statement of ours may come near that. A connection that
# died without a word is noticed by keepalives after about 15 s (the kernel's default is two hours).
STATEMENT_TIMEOUT_MS: Final = 5_000
LOCK_TIMEOUT_MS: Final = 3_000
# What a process that stands still keeps locked, everybody else waits for: a claim holds the gate of all calls.
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 10_000
CONNECT_TIMEOUT_S: Final = 2
ANSWER_SECONDS: Final = 5.0  # for the first question of a session, and for one that a watchdog asks
KEEPALIVES: Final = {
    "keepalives": "1",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}

OLDEST_POSTGRESQL: Final = 15
ENCODING: Final = "UTF8"  # a name in Arabic cannot be stored in LATIN1, and SQL_ASCII checks nothing

# What statements and drivers rely on. psycopg reads dates and intervals in these styles only. All names in our SQL carry their
# schema. A session that listens is idle for hours.
SESSION: Final[Mapping[str, str]] = {
    "array_nulls": "on",
    "bytea_output": "hex",
    "datestyle": "ISO, YMD",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",
    "extra_float_digits": "1",
    "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
    "idle_session_timeout": "0",
    "intervalstyle": "postgres",
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    # Parameters hold tokens. That of slow statements, `log_parameter_max_length`, only a superuser may set (docs/deployment.md).
    "log_parameter_max_length_on_error": "0",
    "quote_all_identifiers": "off",  # Alembic compares what the server spells
    "search_path": "pg_catalog",
    "standard_conforming_strings": "on",
    "timezone": "UTC",
    "transform_null_equals": "off",
}
# Not among them: `default_transaction_read_only`. A hosting service sets it when the disk is full, and means it.

# A host that vanishes leaves its sessions, and with them its locks, until the server notices: after 10 + 3 * 5 s, where its own
# default is two hours. A statement whose client is gone ends within 10 s.
SERVER_KEEPALIVES: Final[Mapping[str, str]] = {
    "client_connection_check_interval": "10000",
    "tcp_keepalives_count": "3",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_user_timeout": "25000",
}

# What a login is given, for the sessions that come through a pooler.
LOGIN: Final[Mapping[str, str]] = {
    **SESSION,
    **SERVER_KEEPALIVES,
    "statement_timeout": str(STATEMENT_TIMEOUT_MS),
}

# Times of the server's, which it shows in the largest unit without a rest.
_TIMES: Final = (
    "client_connection_check_interval",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "statement_timeout",
)
_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1))

READ_ONLY: Final = "25006"  # read_only_sql_transaction: a standby, a role's setting, a disk that is full
_OPTIONS_REFUSED: Final = "unsupported startup parameter"


class UnusableServer(psycopg.OperationalError):
    """A database that answers, and that cardsync cannot work with; the text says why, in one line.

    One of the driver's errors, so that every place that expects a database to fail expects this too.
    """


class OldServer(psycopg.OperationalError):
    """A primary that another one has followed. To its callers it is away: it is no fault of the settings, and may pass."""


class Sessions:
    """Opens the sessions of one engine. ``settings`` come on top of ``SESSION``.

    ``read`` returns the address. It is asked at each connection, since a password may have been changed meanwhile. With
    ``of_its_own`` a pooler is refused: what listens, or migrates, needs the same server's process from one statement to the next.
    ``memory`` knows which server is the newest.
    """

    def __init__(
        self,
        read: Callable[[], str],
        *,
        name: str,
        settings: Mapping[str, str],
        of_its_own: bool = False,
        memory: ServerMemory | None = None,
    ) -> None:
        self._read, self._name, self._of_its_own = read, name, of_its_own
        self._memory = memory
        self._servers: WeakKeyDictionary[object, Server] = WeakKeyDictionary()
        self._settings = {**SESSION, **settings}
        self._without_options = False  # a pooler refused them, and will again

    def address(self) -> Address:
        """Read the address. Raises ``Misconfigured`` if it is none, or sets what cardsync sets itself."""
        address = Address.read(self._read())
        both = sorted(address.set_in_options & (self._settings.keys() | SERVER_KEEPALIVES.keys()))
        if both:
            raise Misconfigured(
                f"{NAME} sets {', '.join(both)} in its options, and cardsync sets that itself: leave it out"
            )
        return address

    def open(self) -> psycopg.Connection[Any]:
        """Open a session and verify it. Raises the driver's errors; ``UnusableServer`` for one that cannot be used.

        Of several hosts libpq takes the first that answers, and knows nothing of timelines: after an old primary each is tried.
        """
        try:
            address = self.address()
        except Misconfigured as error:  # the file was changed while the process ran
            raise UnusableServer(str(error)) from None
        try:
            return self._open(address)
        except OldServer:
            for host in address.hosts():
                with contextlib.suppress(psycopg.OperationalError):
                    return self._open(host)
            raise

    def is_outdated(self, session: object) -> bool:
        """Whether a newer server than this session's was met since."""
        server = self._servers.get(session)
        return self._memory is not None and server is not None and self._memory.is_outdated(server)

    def _open(self, address: Address) -> psycopg.Connection[Any]:
        refused: str | None = None
        try:
            session = self._connect(address)
        except psycopg.OperationalError as error:
            refused = address.why_refused(error)
            if refused is None:
                raise
        if (
            refused is not None
        ):  # out here, where the driver's error is no context of it: that would be told instead (``why``)
            raise UnusableServer(refused)
        try:
            self._verify(session)
        except BaseException:
            session.close()
            raise
        return session

    def _connect(self, address: Address) -> psycopg.Connection[Any]:
        given = dict(address.parameters)
        mine = {
            "connect_timeout": str(CONNECT_TIMEOUT_S),
            **KEEPALIVES,
            **given,
            "application_name": self._name,
            "client_encoding": "utf8",
        }
        if not self._without_options:
            try:
                return psycopg.connect(make_conninfo(**{**mine, "options": self._options(given.get("options"))}))
            except psycopg.OperationalError as error:
                if _OPTIONS_REFUSED not in str(error):
                    raise
                self._without_options = True
        mine.pop("options", None)
        return psycopg.connect(make_conninfo(**mine))

    def _options(self, given: str | None) -> str:
        """libpq's ``options``: those of the address, then ours."""
        chosen = {**self._settings, **SERVER_KEEPALIVES}
        ours = " ".join(f"-c {name}={_escaped(value)}" for name, value in chosen.items())
        return ours if given is None else f"{given} {ours}"

    def _verify(self, session: psycopg.Connection[Any]) -> None:
        """Ask the session what it has. Raises ``UnusableServer`` if it is not what the code relies on."""
        why = unusable_server(session.info.server_version, session.info.parameter_status("server_encoding"))
        if why is not None:
            raise UnusableServer(why)
        wanted = {**self._settings, **SERVER_KEEPALIVES}
        names = list(wanted)
        shown = ", ".join(f"current_setting('{name}')" for name in names)
        where = "NULL, NULL" if self._memory is None else f"{SYSTEM_IDENTIFIER}, {TIMELINE}"
        row = ask_in_time(session, f"SELECT pg_backend_pid(), {where}, {shown}")
        pooled = row[0] != str(session.info.backend_pid)
        if pooled:
            session.prepare_threshold = None
            if self._of_its_own:
                raise UnusableServer(
                    "a pooler stands between this process and PostgreSQL: set CARDSYNC_DATABASE_DIRECT_URL to PostgreSQL's "
                    "own address"
                )
        if row[1] is not None and row[2] is not None:
            self._meet(session, Server(int(row[1]), int(row[2])))
        has = dict(zip(names, row[3:], strict=True))
        lacking = [name for name in names if not _holds(name, has[name] or "", wanted[name], pooled)]
        if lacking:
            raise UnusableServer(
                f"the session does not have {', '.join(lacking)} as cardsync needs it: the pooler passes no options on, and the "
                f"login has no such settings; run cardsync db upgrade with --web-login and --worker-login"
            )

    def _meet(self, session: object, server: Server) -> None:
        assert self._memory is not None
        if (why := self._memory.meet(server)) is not None:
            raise OldServer(why)
        self._servers[session] = server


def ask_in_time(session: psycopg.Connection[Any], statement: str) -> tuple[str | None, ...]:
    """Return the one row of a question without parameters, as text. It begins no transaction.

    Raises the driver's errors; ``ConnectionTimeout`` after ``ANSWER_SECONDS``: the time-out of connecting is over when a session
    is there, and a peer that acknowledges and never answers would hold this thread for ever.
    """
    line, until = session.pgconn, time.monotonic() + ANSWER_SECONDS
    line.send_query_params(statement.encode(), None)
    with selectors.DefaultSelector() as ready:
        ready.register(line.socket, selectors.EVENT_READ)
        while line.flush() or line.is_busy():
            left_seconds = until - time.monotonic()
            if left_seconds <= 0 or not ready.select(left_seconds):
                raise psycopg.errors.ConnectionTimeout("connection timeout expired: the server is silent")
            line.consume_input()
    answer = line.get_result()
    while line.get_result() is not None:
        pass
    if answer is None or answer.status != ExecStatus.TUPLES_OK:
        raise psycopg.OperationalError("connection lost") if answer is None else error_from_result(answer)
    values = (answer.get_value(0, column) for column in range(answer.nfields))
    return tuple(None if value is None else bytes(value).decode() for value in values)


def _holds(name: str, has: str, wanted: str, pooled: bool) -> bool:
    """Tell whether a setting is what it must be. A login has one time limit for all, so any limit will do behind a pooler.

    Of TCP the server shows what its system really has, and 0 over a socket, or where its system cannot do it.
    """
    if pooled and name in ("statement_timeout", "lock_timeout", "client_connection_check_interval") and wanted != "0":
        return has != "0"
    if name.startswith("tcp_") and has == "0":
        return True
    return has == _shown(name, wanted)


def _shown(name: str, value: str) -> str:
    """The value as the server shows it."""
    if name not in _TIMES or value == "0":
        return value
    unit, size = next((unit, size) for unit, size in _UNITS if int(value) % size == 0)
    return f"{int(value) // size}{unit}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def unusable_server(version: int, encoding: str | None) -> str | None:
    """Why a server of this version and encoding cannot be used; ``None`` if it can."""
    if version < OLDEST_POSTGRESQL * 10_000:
        return f"PostgreSQL {version // 10_000} is too old: cardsync needs {OLDEST_POSTGRESQL} or later"
    if encoding not in (None, ENCODING):
        return (
            f"the database's encoding is {encoding}, and cardsync needs {ENCODING}: "
            f"make one with CREATE DATABASE ... ENCODING '{ENCODING}' TEMPLATE template0"
        )
    return None


def unusable(error: BaseException) -> str | None:
    """Why the server cannot be used, in one line, if that is what this error says."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return str(origin) if isinstance(origin, UnusableServer) else None
