"""What others say in this process goes to our log: Twisted's own log, warnings of libraries, uncaught exceptions of threads.

Twisted's errors (an unhandled error in a Deferred, a callback of the reactor that raised) become errors with their traceback on the
logger ``monofs.twisted``, its warnings warnings; whatever it tells below that is shown at debug only. Not here: where lines go (logfile.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from twisted.logger import LogLevel, formatEvent, globalLogPublisher

_LEVELS = {LogLevel.warn: logging.WARNING, LogLevel.error: logging.ERROR, LogLevel.critical: logging.ERROR}
_logger = logging.getLogger("monofs.twisted")


def observe_event(event: dict[str, Any]) -> None:
    """A Twisted log observer."""
    failure = event.get("log_failure")
    level = _LEVELS.get(event.get("log_level", LogLevel.info), logging.DEBUG)
    if failure is not None:
        level = max(level, logging.ERROR)
    if not _logger.isEnabledFor(level):
        return
    told = None if failure is None else (failure.type, failure.value, failure.getTracebackObject())
    fields = {"text": formatEvent(event), "system": event.get("log_system") or event.get("log_namespace")}
    _logger.log(level, "twisted error" if failure is not None else "twisted", exc_info=told, extra={"fields": fields})


def _thread_died(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is SystemExit or arguments.exc_value is None:
        return
    name = arguments.thread.name if arguments.thread is not None else ""
    told = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    logging.getLogger("monofs.threads").error("a thread died", exc_info=told, extra={"fields": {"thread": name}})


def bridge_logs(handler: logging.Handler) -> Callable[[], None]:
    """Begin; call the result to end. Warnings of libraries that use Python's logging go to ``handler`` straight."""
    logging.getLogger().addHandler(handler)
    before = threading.excepthook
    observer: Any = observe_event  # a plain callable is one; only the stubs ask for a declared interface
    threading.excepthook = _thread_died
    globalLogPublisher.addObserver(observer)

    def end() -> None:
        logging.getLogger().removeHandler(handler)
        threading.excepthook = before
        globalLogPublisher.removeObserver(observer)

    return end
