"""Log lines for people (console) or programs (JSON), each with the id of the request it belongs to.

The id (``service.api.request_log``) goes back in the response's header and in every problem document, so that a line of
the log is found from an answer and the other way round.
"""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from stmixer.service.settings import Settings

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that runs now, and of the tasks it started; empty outside of requests."""
KEY_NAME: ContextVar[str] = ContextVar("key_name", default="")
"""The name of the key with which it came, once that is known; never the key. Empty where it came without one."""


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """``extra`` of a log call: values that JSON keeps as they are and the console writes as ``name=value``."""
    return {"fields": values}


class ConsoleFormatter(logging.Formatter):
    """The message, then what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback if there is one."""
        pairs = _belonging(record)
        first, newline, rest = super().format(record).partition("\n")
        return " ".join([first, *(f"{name}={_plain(value)}" for name, value in pairs.items())]) + newline + rest


class JsonFormatter(logging.Formatter):
    """An object a line: time, level, logger, message, then what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in it."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_belonging(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _belonging(record: logging.LogRecord) -> dict[str, Any]:
    """What the call says, and of the request what it does not: a stream may end in the middle of another's request."""
    found: dict[str, Any] = dict(getattr(record, "fields", {}))
    for name, value in (("request_id", REQUEST_ID.get()), ("key", KEY_NAME.get())):
        if value:
            found.setdefault(name, value)
    return found


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def configure(settings: Settings) -> None:
    """Level and form of every line of this process from here on."""
    root = logging.getLogger()
    root.setLevel(settings.log_level.upper())
    if settings.log_format == "json":  # a terminal's colours and columns have no place in it
        logging.basicConfig(level=root.level, handlers=[logging.StreamHandler()], force=True)
    for handler in root.handlers:
        handler.setFormatter(JsonFormatter() if settings.log_format == "json" else ConsoleFormatter("%(message)s"))
