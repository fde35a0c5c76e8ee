"""JSON lines: one object a line with time, level, logger, event and the given fields.

Fields named like a secret are replaced (law 9), a field value is cut at 2,000 characters, a field without a value is left out. A line
written while a request is worked for carries its id as ``trace``. Loggers may be used from any thread. Not here: files (logfile.py).
"""

from __future__ import annotations

import functools
import json
import logging
import time
from typing import Any

from monofs.observe.logfile import FileLog, LogHandler, StreamLog
from monofs.observe.recent import Recent
from monofs.observe.tracing import current_trace, show_trace

_SECRET_WORDS = ("secret", "password", "token", "credential", "authorization", "private_key", "capability")
_FIELD_MAX = 2000
AUDIT_LOGGER = "monofs.audit"


class Log:
    """A named logger: ``log.info("mounted", path="/lake", trace=trace)``."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    @property
    def is_debug(self) -> bool:
        """Whether :meth:`debug` writes anything: ask before gathering much for it."""
        return self._logger.isEnabledFor(logging.DEBUG)

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
        fields = getattr(record, "fields", {})
        trace = current_trace()
        if trace and "trace" not in fields:
            shown["trace"] = show_trace(trace)
        for name, value in fields.items():
            if value is not None:
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


def _plain(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


_encode = json.JSONEncoder(default=_plain, ensure_ascii=False).encode


def logger(name: str) -> Log:
    """The logger of one module: ``log = logger(__name__)``."""
    return Log(name)


def set_up_logs(
    level: str, file: str, max_bytes: int, *, name: str = "monofs", recent: Recent | None = None
) -> logging.Handler:
    """Send the loggers below ``name`` to ``file`` (``-``: standard error) as JSON lines, rotated at ``max_bytes``; ``recent`` keeps the last ones.

    Above debug, lines of one event are bounded in number, but for the audit log. Returns the handler, for :func:`close_logs`. Raises
    ``OSError`` when the file cannot be opened.
    """
    spare = level != "debug" and name != AUDIT_LOGGER
    handler: LogHandler = StreamLog(spare=spare) if file == "-" else FileLog(file, max_bytes, spare=spare)
    handler.recent = recent
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
