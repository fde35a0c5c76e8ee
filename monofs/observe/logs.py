"""JSON lines: one object a line with time, level, logger, event and the given fields.

Fields named like a secret are replaced (law 9); a field value is cut at 2,000 characters. Loggers may be used from any thread.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
import time
from logging.handlers import RotatingFileHandler
from typing import Any

_SECRET_WORDS = ("secret", "password", "token", "credential", "authorization", "private_key", "capability")
_FIELD_MAX = 2000


class Log:
    """A named logger: ``log.info("mounted", path="/lake", trace=trace)``."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        """Details for finding a fault."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: Any) -> None:
        """What an operator wants to read afterwards."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Something works worse than it should."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, *, exception: BaseException | None = None, **fields: Any) -> None:
        """Something failed that should not have."""
        self._logger.error(event, exc_info=exception, extra={"fields": fields})


class _File(RotatingFileHandler):
    """A log that cannot be written (no room) is left out, and standard error told once: whoever logs goes on."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            sys.stderr.write(f"monofs: cannot write {self.baseFilename}: {error.strerror}\n")

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            sys.stderr.write(f"monofs: cannot write {self.baseFilename}: {error.strerror}\n")


class JsonFormatter(logging.Formatter):
    """One record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Times are UTC with milliseconds."""
        stamp = _seconds(int(record.created))
        shown: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        for name, value in getattr(record, "fields", {}).items():
            shown[name] = clean_field(name, value)
        if record.exc_info and record.exc_info[0] is not None:
            shown["exception"] = self.formatException(record.exc_info)
        return _encode(shown)


def clean_field(name: str, value: Any) -> Any:
    """The value as it may be written."""
    if _is_secret(name):
        return "***"
    if isinstance(value, str) and len(value) > _FIELD_MAX:
        return value[:_FIELD_MAX] + "…"
    return value


@functools.lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)


@functools.lru_cache(maxsize=2)
def _seconds(since_epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since_epoch_s))


_encode = json.JSONEncoder(default=str, ensure_ascii=False).encode


def logger(name: str) -> Log:
    """The logger of one module: ``log = logger(__name__)``."""
    return Log(name)


def set_up_logs(level: str, file: str, max_bytes: int, *, name: str = "monofs") -> logging.Handler:
    """Send the loggers below ``name`` to ``file`` (``-``: standard error) as JSON lines, rotated at ``max_bytes``.

    Returns the handler, for :func:`close_logs`. Raises ``OSError`` when the file cannot be opened.
    """
    handler: logging.Handler
    if file == "-":
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = _File(file, maxBytes=max_bytes, backupCount=4, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger(name)
    root.setLevel(level.upper())
    root.propagate = False
    root.addHandler(handler)
    return handler


def close_logs(handler: logging.Handler, *, name: str = "monofs") -> None:
    """Undo :func:`set_up_logs`."""
    logging.getLogger(name).removeHandler(handler)
    handler.close()
