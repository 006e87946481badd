"""Logs: one line an event, JSON outside a terminal, the same for our own lines and the libraries'.

Log lines hold our own ids and words only. Customer ids, tokens, keys and bodies are never given to a logger. Libraries that would
log a URL with a token are silenced where they are used (``cardsync.ottu``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.config
import sys
import threading
from typing import Any, Final, Literal

import orjson
import structlog

from cardsync.log_lines import LogLines
from cardsync.settings import Settings

Process = Literal["web", "worker", "beat", "cli", "console", "dev", "simulator"]
_FOR_A_PERSON: Final = frozenset(("cli", "dev", "simulator"))

# Their INFO is a line a message or a request; Celery's names a task's arguments.
QUIET: Final = ("alembic", "amqp", "celery", "httpcore", "httpx", "kombu", "ottu-py", "werkzeug", "_granian")
# These tell of each connection that broke, with its address and with what the server said. Who wanted it says so, in our words.
SILENT: Final = ("cardsync.db.watched_pool", "psycopg")


def configure(settings: Settings, process: Process) -> None:
    """Set up logging for this process, on standard error for the command line and standard output elsewhere."""
    threading.excepthook = _tell_ended_thread
    stream = sys.stderr if process == "cli" else sys.stdout
    lines = LogLines.of(stream, at_once=process in _FOR_A_PERSON, tell_of_lost=_tell_of_lost)
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _say_which(process),
    ]
    logging.config.dictConfig(
        _of_libraries(settings.log_level.upper(), shared, lines, as_json=as_json, colors=stream.isatty())
    )
    logging.captureWarnings(True)  # Python's warnings, which come as several lines of text, are lines like all others
    if as_json:
        _write_our_own_lines_as_bytes(shared, lines, getattr(logging, settings.log_level.upper()))
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _of_libraries(level: str, shared: list[Any], lines: LogLines, *, as_json: bool, colors: bool) -> dict[str, Any]:
    """The standard library's logging, so that the libraries' lines look like ours."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    )
    # Locals of a frame may hold a token: tracebacks are plain, without them.
    format_exception: list[Any] = [structlog.processors.format_exc_info] if as_json else []
    line = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": shared,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *format_exception, renderer],
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": line},
        "handlers": {"out": {"()": _LibrariesLines, "lines": lines, "formatter": "line"}},
        "root": {"handlers": ["out"], "level": level},
        "loggers": {name: {"level": "WARNING"} for name in QUIET} | {name: {"level": "CRITICAL"} for name in SILENT},
    }


class _LibrariesLines(logging.Handler):
    """The libraries' lines, on their way among ours. One that cannot be written is left out."""

    def __init__(self, lines: LogLines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. Prints nothing: the standard library prints what failed, and Celery's arguments hold a message."""
        with contextlib.suppress(Exception):
            line = self.format(record).encode("utf-8", "backslashreplace")
            self._lines.add(line, is_urgent=record.levelno >= logging.WARNING)


def _tell_ended_thread(ended: threading.ExceptHookArgs) -> None:
    """A thread that an error ended leaves one line in our own form; Python's traceback has the error's text, and so a token."""
    if ended.exc_type is not SystemExit:
        name = ended.thread.name if ended.thread else "unknown"
        structlog.get_logger(__name__).error("thread_ended", thread=name, error=ended.exc_type.__name__)


def _write_our_own_lines_as_bytes(shared: list[Any], lines: LogLines, level: int) -> None:
    """Our own lines go to the stream as bytes, past the standard library's records and handlers: a third of the time.

    A hint's line was a seventh of what answering the hint cost. The libraries' lines take the longer way to the same stream.
    """
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_as_json),
        ],
        logger_factory=lambda *names: _LineWriter(lines, name=names[0] if names else None),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )


class _LineWriter:
    """A logger's end that is given whole lines, and raises nothing."""

    def __init__(self, lines: LogLines, name: str | None = None) -> None:
        self.name = name
        self._lines = lines

    def info(self, line: bytes) -> None:
        """Write a line soon, with its neighbours."""
        self._lines.add(line)

    def msg(self, line: bytes) -> None:
        """Write a line as soon as it can be."""
        self._lines.add(line, is_urgent=True)

    log = debug = info
    warn = warning = error = err = critical = fatal = exception = failure = msg


def _tell_of_lost(lines: int) -> None:
    structlog.get_logger(__name__).warning("log_lines_lost", lines=lines, because="the log's reader did not take them")


def _as_json(event: dict[str, Any], **_: Any) -> bytes:
    """Write a line; what JSON does not know is written as its text. No line is lost to a value that orjson refuses."""
    try:
        return orjson.dumps(event, default=str)
    except TypeError:  # half of a surrogate pair, an integer beyond 64 bits
        return json.dumps(event, default=str).encode()


def _say_which(process: Process) -> Any:
    def add(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event.setdefault("process", process)
        return event

    return add
