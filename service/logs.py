"""Log lines for people (console) or programs (JSON), each with the id of the request it belongs to.

No line holds a key, and none can be made to look like two: what clients send is escaped, the lines of a traceback begin
with spaces, and libraries' own chatter, which prints whole headers, is not let through at any level.

The id (``service.api.request_log``) goes back in the response's header and in every problem document, so that a line of
the log is found from an answer and the other way round.
"""

from __future__ import annotations

import json
import logging
import re
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from stmixer.service.settings import Settings

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that runs now, and of the tasks it started; empty outside of requests."""
KEY_NAME: ContextVar[str] = ContextVar("key_name", default="")
"""The name of the key with which it came, once that is known; never the key. Empty where it came without one."""


CHATTY = ("uvicorn", "websockets", "python_multipart", "multipart", "asyncio")
_ONE_WORD = re.compile(r"[^\s\"\x00-\x1f\x7f-\x9f]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_KEYS = (
    re.compile(r"\b(stm_)[\w-]+"),
    re.compile(r"(?i)(authorization[\"']?\s*[:=,]\s*b?[\"']?(?:\w+ +)?)[^\s\"'\\,;)]+"),
    re.compile(r"(?i)(api_key\W{1,8})[^\s\"'\\,;}]+"),
)


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """``extra`` of a log call: values that JSON keeps as they are and the console writes as ``name=value``."""
    return {"fields": values}


class ConsoleFormatter(logging.Formatter):
    """The message, then what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback if there is one, whose lines begin with spaces."""
        pairs = _belonging(record)
        first = " ".join([record.getMessage(), *(f"{name}={_plain(value)}" for name, value in pairs.items())])
        rest = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        return "\n    ".join(map(_safe, (first, *rest)))


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
        return without_keys(json.dumps(line, default=str))


def _belonging(record: logging.LogRecord) -> dict[str, Any]:
    """What the call says, and of the request what it does not: a stream may end in the middle of another's request."""
    found: dict[str, Any] = dict(getattr(record, "fields", {}))
    for name, value in (("request_id", REQUEST_ID.get()), ("key", KEY_NAME.get())):
        if value:
            found.setdefault(name, value)
    return found


def _plain(value: Any) -> str:
    """A value as it stands in a line: one that could look like several is quoted."""
    if isinstance(value, str) and _ONE_WORD.fullmatch(value):
        return value
    return json.dumps(value, separators=(",", ":"), default=str)


def without_keys(line: str) -> str:
    """A line with whatever looks like a key, or stands where one would, taken out."""
    for pattern in _KEYS:
        line = pattern.sub(r"\1…", line)
    return line


def _safe(line: str) -> str:
    return without_keys(_CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), line))


def configure(settings: Settings) -> None:
    """Level and form of every line of this process from here on."""
    root = logging.getLogger()
    root.setLevel(settings.log_level.upper())
    for library in CHATTY:  # they print requests with all their headers, and queries
        logging.getLogger(library).setLevel(max(root.level, logging.WARNING))
    if settings.log_format == "json":  # a terminal's colours and columns have no place in it
        logging.basicConfig(level=root.level, handlers=[logging.StreamHandler()], force=True)
    for handler in root.handlers:
        handler.setFormatter(JsonFormatter() if settings.log_format == "json" else ConsoleFormatter("%(message)s"))
