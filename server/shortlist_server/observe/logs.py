"""The server's log: lines for people or for machines, each with the id of its request.

``process.py`` calls ``configure`` once. No level logs documents, queries or keys. The request id is a context variable:
it is set in a call's coroutines, and empty in background threads.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar

FORMATS = ("human", "json")

OWN = __name__.partition(".")[0]
"""What the names of the server's loggers begin with."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the call being served; "" outside of calls."""


def configure(level: str, form: str) -> None:
    """Sends the log to standard error.

    Libraries log nothing below info: details of the event loop, the transport and model files would bury the server's.

    Args:
        level: lowest level to log: debug, info, warning or error.
        form: human or json. A JSON line is an object with ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``,
            ``request_id`` and, where present, ``fields`` and ``exception``.

    Raises:
        ValueError: level or form is not one of these.
    """
    if form not in FORMATS:
        raise ValueError(f"unknown log format '{form}'; the formats are {', '.join(FORMATS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else HumanFormatter())
    own = logging.getLogger(OWN)
    own.setLevel(level.upper())
    logging.basicConfig(level=max(own.level, logging.INFO), handlers=[handler], force=True)


class HumanFormatter(logging.Formatter):
    """Time, level, request id ("-" outside of calls), logger, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = (
            f"{self.formatTime(record)} {record.levelname} {request_id.get() or '-'} {record.name}: "
            f"{record.getMessage()}{fields}"
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
        }
        if fields := _fields(record):
            line["fields"] = fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What the caller of the logger passed as ``extra={"fields": {...}}``."""
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields
