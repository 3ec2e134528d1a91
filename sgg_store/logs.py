"""How a process writes its log: one JSON object a line, or readable lines on a terminal, and never a secret.

Everything goes through the standard library's `logging`, other people's libraries too, and is rendered here alone.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from opentelemetry import trace
from pydantic_settings import BaseSettings, SettingsConfigDict
from structlog.typing import EventDict, WrappedLogger

from sgg_store.redaction import redacted

FIELDS = "sgg_fields"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
QUIET = ("alembic", "asyncio", "celery", "httpcore", "httpx", "kombu", "urllib3", "uvicorn")
"""Libraries whose chatter tells an operator nothing that our own lines do not: only their warnings are written."""


class LogSettings(BaseSettings):
    """What a log can be told by the environment (`SGG_...`)."""

    model_config = SettingsConfigDict(env_prefix="SGG_", env_ignore_empty=True, frozen=True, extra="ignore")

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines that are written."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto` writes readable lines on a terminal, and JSON elsewhere."""


def configure(process: str, settings: LogSettings | None = None, stream: TextIO | None = None) -> None:
    """Let this process write its log to `stream` (standard error), under the name of its role. Call it once, early."""
    settings = settings or LogSettings()
    stream = stream or sys.stderr
    readable = settings.log_format == "console" or (settings.log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(process, readable, stream.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[settings.log_level])
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, LEVELS[settings.log_level]))
    logging.captureWarnings(True)
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # libraries say it to programmers
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that takes an event and named fields. It needs no `configure`: then it is the standard library's."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.stdlib.filter_by_level, _to_record],
    )
    return logger


def parsed_line(line: str) -> tuple[int, str, dict[str, Any]]:
    """Level, event and fields of a line that another process wrote: its log's JSON, or anything else as plain words."""
    try:
        fields = json.loads(line)
        level, event = LEVELS.get(fields.pop("level"), logging.ERROR), str(fields.pop("event"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return logging.INFO, line, {}
    for ours in ("timestamp", "process", "pid"):
        fields.pop(ours, None)
    fields["said_by"] = fields.pop("logger", None)
    return level, event, fields


def _to_record(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Hand an event to `logging`; its fields stay together, since a record has attributes such as `filename` itself."""
    record = {name: event.pop(name) for name in ("exc_info", "stack_info", "stacklevel") if name in event}
    return {"msg": event.pop("event"), "extra": {FIELDS: event}, **record}


def _from_record(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {**event, **getattr(event["_record"], FIELDS, {})}


def _add_trace(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    present = trace.get_current_span().get_span_context()
    return {**event, "trace_id": trace.format_trace_id(present.trace_id)} if present.is_valid else event


def _formatter(process: str, readable: bool, colors: bool) -> logging.Formatter:
    def name_process(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {**event, "process": process, "pid": os.getpid()}

    def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {str(key): redacted(value, str(key)) for key, value in event.items()}

    renderer: Any = structlog.dev.ConsoleRenderer(colors=colors) if readable else structlog.processors.JSONRenderer()
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            _from_record,
            _add_trace,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            name_process,
            structlog.processors.format_exc_info,
            redact,  # after everything else has become text
            renderer,
        ],
    )


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error or kind(), trace)
        return
    exc_info = (kind, error or kind(), trace)
    logging.getLogger(__name__).critical("an error that nothing caught", exc_info=exc_info)
