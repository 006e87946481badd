"""Logs: one line an event, JSON outside a terminal, the same for our own lines and the libraries'.

What is logged are our own ids and words. Customer ids, tokens, keys and bodies are never given to a logger; libraries that
would write a URL with a token are silenced where they are used (``cardsync.ottu``).
"""

from __future__ import annotations

import logging
import logging.config
import sys
from typing import Any, Literal

import structlog

from cardsync.settings import Settings

Process = Literal["web", "worker", "beat", "cli", "dev", "simulator"]


def configure(settings: Settings, process: Process) -> None:
    """Set up logging for this process, on standard error for the command line and standard output elsewhere."""
    stream = sys.stderr if process == "cli" else sys.stdout
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _say_which(process),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    # Locals of a frame may hold a token: tracebacks are plain, without them.
    format_exception: list[Any] = [structlog.processors.format_exc_info] if as_json else []
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": shared,
                    "processors": [
                        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                        *format_exception,
                        renderer,
                    ],
                }
            },
            "handlers": {"out": {"class": "logging.StreamHandler", "stream": stream, "formatter": "line"}},
            "root": {"handlers": ["out"], "level": settings.log_level.upper()},
            # Their INFO is a line a message or a request; Celery's names a task's arguments.
            "loggers": {
                name: {"level": "WARNING"}
                for name in (
                    "alembic",
                    "amqp",
                    "celery",
                    "httpcore",
                    "httpx",
                    "kombu",
                    "ottu-py",
                    "werkzeug",
                    "_granian",
                )
            },
        }
    )
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


def _say_which(process: Process) -> Any:
    def add(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event.setdefault("process", process)
        return event

    return add
